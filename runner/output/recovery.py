"""What a new attempt does before it writes: fence, roll forward, sweep, replay."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

import pyarrow as pa

from runner.errors import DamageError
from runner.output.commits import Commit
from runner.output.entries import decode, select
from runner.output.folder import Folder
from runner.output.journal import read_journal
from runner.output.layout import DATA, ERRORS, KINDS, journal_key
from runner.output.ledger import journal_schema
from runner.output.ranges import OpenRange, bounds, is_covered
from runner.output.shards import check_part


def new_attempt(folder: Folder, partition: tuple[int, int] | None, task: str = "") -> int:
    """A number that no earlier attempt on this folder had: whatever this one writes is named by it.

    Its marker is not synced: a power cut that takes it takes the attempt too, and what that wrote is counted.
    """
    disk, layout = folder.disk, folder.layout
    used = [0, *(commit.attempt for commit in folder.commits.values())]
    used += [int(name.partition(".")[0]) for name in disk.names(layout.attempts)]
    used += [int(name) for name in disk.names(layout.stage)]
    used += [key[0] for name in disk.names(layout.journals) if (key := journal_key(name))]
    number = max(used) + 1
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "partition": _shown(partition), "task": task}
    while not disk.claim(layout.attempt(number), json.dumps(holder).encode()):
        number += 1
    return number


def roll_forward(folder: Folder, own: Iterable[int]) -> None:
    """Finishes what earlier attempts committed and did not publish, in the ranges of this partition.

    Durable on return, also what a killed attempt published and did not come to syncing.
    """
    for index in own:
        commit = folder.commits.get(index)
        if commit is None:
            continue
        if commit.is_tombstone:
            set_aside(folder, commit)
        elif not folder.is_published(commit):
            folder.publish(commit)
    folder.sync_parts()


def set_aside(folder: Folder, tombstone: Commit) -> None:
    """Moves the parts of a range that is to be done again out of the readers' sight."""
    for kind in KINDS:
        source = folder.layout.part(kind, tombstone.index)
        if folder.disk.size(source) is not None:
            name = f"{kind}-{source.stem}.g{tombstone.generation}{source.suffix}"
            folder.disk.rename(source, folder.layout.damaged / name)


def sweep_stage(folder: Folder) -> None:
    """Drops what older attempts staged for ranges that others have committed since.

    What is staged for a range without a commit stays: its writer may be stopped right before its commit,
    and would commit a part that is gone.
    """
    disk, layout = folder.disk, folder.layout
    for attempt in disk.names(layout.stage):
        for name in disk.names(layout.stage / attempt):
            kind, _, number = name.partition(".")[0].partition("-")
            commit = folder.commits.get(int(number)) if kind in KINDS and number.isdigit() else None
            if commit is not None and not commit.is_tombstone and commit.attempt != int(attempt):
                disk.unlink(layout.stage / attempt / name)


def open_ranges(folder: Folder, own: Iterable[int], num_rows: int) -> dict[int, OpenRange]:
    """The ranges that still lack a commit, with what an earlier, shorter generation of them holds."""
    found = {}
    for index in own:
        start, stop = bounds(folder.job, index, num_rows)
        commit = folder.commits.get(index)
        if commit is not None and is_covered(commit, stop):
            continue
        item = OpenRange(index, start, stop, commit.generation + 1 if commit else 1)
        if commit is not None and not commit.is_tombstone:
            item.add_committed(commit, *_committed_tables(folder, commit))
        found[index] = item
    return found


def _committed_tables(folder: Folder, commit: Commit) -> tuple[pa.Table, pa.Table | None]:
    tables: dict[str, pa.Table] = {}
    schemas = {DATA: folder.columns.data, ERRORS: folder.columns.errors}
    for kind, part in commit.parts():
        path = folder.layout.part(kind, commit.index)
        try:
            tables[kind] = check_part(folder.disk.read(path), part, schemas[kind])
        except ValueError as error:
            raise DamageError(
                f"output.dir: {path} is damaged ({error}); run python -m runner.repair {folder.layout.root}"
            ) from error
    return tables[DATA], tables.get(ERRORS)


def replay(
    folder: Folder,
    ranges: dict[int, OpenRange],
    partition: tuple[int, int] | None,
    attempts: Collection[int] | None = None,
) -> dict[Path, set[int]]:
    """Gives the open ranges every journalled row that they lack; of a row that is there twice the first counts.

    Reads the journals of ``attempts``, all by default. Returns the journals that this run may drop, each once its
    ranges are committed: those of its own partition, whose lock it holds. The others' writers may be alive.
    """
    disk, layout = folder.disk, folder.layout
    schema = journal_schema(folder)
    own: dict[Path, set[int]] = {}
    for name in disk.names(layout.journals):
        key = journal_key(name)
        if key is None or (attempts is not None and key[0] not in attempts):
            continue
        path = layout.journals / name
        needed: set[int] = set()
        for batch in read_journal(disk, path, schema):
            needed |= _restore(folder, ranges, batch)
        if needed:
            disk.sync_again(path)
        if _partition_of(folder, key[0]) == _shown(partition):
            own[path] = needed
    return own


def journalled_ranges(folder: Folder) -> dict[int, set[int]]:
    """The attempts whose journals hold rows of a range, by range."""
    disk, layout, size = folder.disk, folder.layout, folder.job.rows_per_shard
    found: dict[int, set[int]] = {}
    for name in disk.names(layout.journals):
        if key := journal_key(name):
            for batch in read_journal(disk, layout.journals / name, journal_schema(folder)):
                for index in {row_id // size for row_id in batch.column(0).to_pylist()}:
                    found.setdefault(index, set()).add(key[0])
    return found


def _restore(folder: Folder, ranges: dict[int, OpenRange], batch: pa.RecordBatch) -> set[int]:
    """Returns the open ranges that the batch holds rows of."""
    size = folder.job.rows_per_shard
    row_ids: list[int] = batch.column(0).to_pylist()
    wanted = []
    for row_id in row_ids:
        item = ranges.get(row_id // size)
        wanted.append(item is not None and item.lacks(row_id))
    for index, entries in decode(select(batch, wanted), folder.columns, size).items():
        ranges[index].add(entries, folder.columns)
    return {row_id // size for row_id in row_ids}.intersection(ranges)


def _partition_of(folder: Folder, attempt: int) -> str | None:
    """Whose attempt it was; None when a power cut took its marker."""
    marker = folder.disk.read_if_there(folder.layout.attempt(attempt))
    try:
        return json.loads(marker or b"{}").get("partition")
    except (ValueError, AttributeError):
        return None


def _shown(partition: tuple[int, int] | None) -> str:
    return "auto" if partition is None else f"{partition[0]}/{partition[1]}"
