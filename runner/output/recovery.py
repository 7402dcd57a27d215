"""What a new attempt does before it writes: fence, roll forward, sweep, replay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

import pyarrow as pa

from runner.output.attempts import rerun_name, shown, work_of
from runner.output.commits import Commit
from runner.output.entries import decode, select
from runner.output.folder import Folder
from runner.output.journal import read_journal
from runner.output.layout import KINDS, journal_key, staged_key
from runner.output.ledger import journal_schema
from runner.output.ranges import OpenRange, bounds, is_covered
from runner.output.rerun import Split


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
            index, generation = staged_key(name) or (-1, 0)
            commit = folder.commits.get(index)
            if commit is not None and commit.generation >= generation and commit.attempt != int(attempt):
                disk.unlink(layout.stage / attempt / name)


def open_ranges(folder: Folder, own: Iterable[int], num_rows: int) -> dict[int, OpenRange]:
    """The ranges that still lack a commit, also those that an earlier generation holds less of; or a rerun's."""
    if folder.rerun is not None:
        return _due(folder, own)
    found = {}
    for index in own:
        start, stop = bounds(folder.job, index, num_rows)
        commit = folder.commits.get(index)
        if commit is not None and is_covered(commit, stop):
            continue
        base = None if commit is None or commit.is_tombstone else commit
        split = partial(_kept, folder, base) if base else None
        found[index] = OpenRange(index, start, stop, commit.generation + 1 if commit else 1, base, split)
    return found


def _kept(folder: Folder, commit: Commit) -> Split:
    """What a newer generation takes over from a commit."""
    data, errors = folder.read_parts(commit)
    if folder.rerun is None:
        return Split({}, data, errors)
    return folder.rerun.selection.split(data, errors, folder.columns)


def _due(folder: Folder, own: Iterable[int]) -> dict[int, OpenRange]:
    """The ranges with lines that the folder's rerun has still to do."""
    found = {}
    for index in own:
        commit = folder.commits.get(index)
        if commit is not None and folder.rerun is not None and folder.rerun.is_due(commit):
            split = partial(_kept, folder, commit)
            found[index] = OpenRange(
                index, commit.start, commit.stop, commit.generation + 1, commit, split, is_rerun=True
            )
    return found


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
            disk.sync_again(path)  # unless its owner has committed all of it since, and dropped it
        if work_of(folder, key[0]) == (shown(partition), rerun_name(folder)):
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
    """Returns the ranges for whose sake the journal is kept: open ones, and those that a longer input will open."""
    size = folder.job.rows_per_shard
    row_ids: list[int] = batch.column(0).to_pylist()
    wanted = []
    for row_id, generation in zip(row_ids, batch.column(1).to_pylist(), strict=True):
        item = ranges.get(row_id // size)
        wanted.append(item is not None and item.generation == generation and item.lacks(row_id))
    for index, entries in decode(select(batch, wanted), folder.columns, size).items():
        ranges[index].add(entries, folder.columns)
    return {row_id // size for row_id in row_ids if row_id // size in ranges or not _is_committed(folder, row_id)}


def _is_committed(folder: Folder, row_id: int) -> bool:
    return is_covered(folder.commits.get(row_id // folder.job.rows_per_shard), row_id + 1)
