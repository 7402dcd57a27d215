"""Is a folder what its commits say? Reads everything, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from runner.errors import ConfigError, DamageError, LockedError, StorageError
from runner.output.columns import Columns
from runner.output.commits import Commit, Part, newest_generations, read_commit
from runner.output.disk import Disk
from runner.output.folder import Folder
from runner.output.job import columns_of, read_job
from runner.output.journal import read_journal
from runner.output.layout import DATA, ERRORS, KINDS, Layout, journal_key, part_index
from runner.output.ledger import journal_schema
from runner.output.lock import held_locks
from runner.output.ranges import bounds, is_covered, num_ranges
from runner.output.sealed import Broken, unseal
from runner.output.shards import check_part


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written. ``index`` is the range to do again, if one must be."""

    path: Path
    reason: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Report:
    """What `verify` found. ``notes`` are no damage: work that is left, files that no longer serve.

    What is in ``unreadable`` the disk did not give: it may be whole.
    """

    folder: Folder
    damages: list[Damage] = field(default_factory=list)
    unreadable: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def doubtful(self) -> set[int | None]:
        """The ranges that are damaged or could not be read."""
        return {damage.index for damage in (*self.damages, *self.unreadable)}

    @contextmanager
    def reading(self, path: Path, index: int | None = None) -> Iterator[None]:
        """Notes that the disk does not give a file, and goes on with the next."""
        try:
            yield
        except StorageError as error:
            reason = getattr(error.__cause__, "strerror", None) or error
            self.unreadable.append(Damage(path, f"cannot be read ({reason})", index))


def open_idle(path: str | Path) -> Folder:
    """The folder for reading as a whole; raises `LockedError` while a run is active, `ConfigError` without a job."""
    disk, layout = Disk(), Layout(Path(path))
    job = read_job(disk, layout)
    if job is None:
        raise ConfigError(f"{path}: there is no job of this runner; give the folder that holds data/ and .runner/")
    if held := held_locks(layout.locks):
        raise LockedError(f"{path}: a run is active (partition {held[0]}); wait until it has ended")
    return Folder(disk, layout, job, columns_of(job))


def verify(path: str | Path) -> Report:
    """Checks that every committed row is there exactly once, bit by bit as it was written."""
    folder = open_idle(path)
    report = Report(folder)
    _load_commits(folder, report)
    without_commit = report.doubtful
    for index, commit in folder.commits.items():
        if not commit.is_tombstone and index not in without_commit:
            _check_range(folder, commit, report)
    report.damages.extend(_extra_files(folder, without_commit))
    _check_completeness(folder, report)
    _check_success(folder, report)
    return report


def _load_commits(folder: Folder, report: Report) -> None:
    """Reads the records that count into the folder; those that cannot be understood are damages."""
    for index, generation in sorted(newest_generations(folder.disk, folder.layout).items()):
        path = folder.layout.commit(index, generation)
        try:
            with report.reading(path, index):
                folder.add_commit(read_commit(folder.disk, folder.layout, index, generation))
        except DamageError:
            report.damages.append(Damage(path, "the commit record is not what was written", index))


def _check_range(folder: Folder, commit: Commit, report: Report) -> None:
    tables: dict[str, pa.Table] = {}
    for kind, part in commit.parts():
        path = folder.layout.part(kind, commit.index)
        with report.reading(path, commit.index):
            try:
                table = _read_part(folder, commit, kind, part)
            except ValueError as error:
                report.damages.append(Damage(path, str(error), commit.index))
                continue
            if table is not None:
                tables[kind] = table
    if DATA in tables and (commit.errors is None or ERRORS in tables):
        for reason in row_faults(commit, tables[DATA], tables.get(ERRORS), folder.columns):
            report.damages.append(Damage(folder.layout.part(DATA, commit.index), reason, commit.index))


def _read_part(folder: Folder, commit: Commit, kind: str, part: Part) -> pa.Table | None:
    """None while it is staged: the next run publishes it. Raises ValueError for one that is not as committed."""
    path = folder.layout.part(kind, commit.index)
    if folder.disk.size(path) is None:
        staged = folder.layout.staged(commit.attempt, kind, commit.index, commit.generation)
        if folder.disk.size(staged) is None:
            raise ValueError("is missing")
        return None
    if path.is_dir():
        raise ValueError("is a folder")
    return check_part(folder.disk.read(path), part, folder.columns.data if kind == DATA else folder.columns.errors)


def row_faults(commit: Commit, data: pa.Table, errors: pa.Table | None, columns: Columns) -> Iterator[str]:
    """What is wrong with the rows of a range, should its parts be whole but not what a range must hold."""
    keys = list(zip(*(data[name].to_pylist() for name in columns.key), strict=True))
    if any(a >= b for a, b in pairwise(keys)):
        yield "its lines are not in order, or one is there twice"
    wanted = [*columns.error_key, columns.error_names["num_samples"]]
    failed = errors.select(wanted).to_pylist() if errors is not None else []
    failed_keys = [tuple(line.values())[:3] for line in failed]
    if set(keys).intersection(failed_keys):
        yield "a sample is in data/ and in errors/"
    rows = {key[0] for key in keys} | {key[0] for key in failed_keys}
    if any(not commit.start <= row < commit.stop for row in rows):
        yield f"it holds rows outside of {commit.start} to {commit.stop - 1}"
    if len(rows) + commit.totals.empty_rows != commit.stop - commit.start:
        yield f"it stands for {len(rows) + commit.totals.empty_rows} rows, not {commit.stop - commit.start}"
    stands_for = sum(line[columns.error_names["num_samples"]] for line in failed)
    if stands_for != commit.totals.failed_samples:
        yield f"its errors stand for {stands_for} samples, not {commit.totals.failed_samples}"


def _extra_files(folder: Folder, damaged: set[int | None]) -> Iterator[Damage]:
    """Files where readers look that no commit stands for."""
    for kind in KINDS:
        for name in folder.disk.names(folder.layout.root / kind):
            index = part_index(name)
            commit = folder.commits.get(index) if index is not None else None
            if index in damaged or (commit is not None and commit.part(kind) is not None):
                continue
            yield Damage(folder.layout.root / kind / name, "no commit stands for this file")


def _check_completeness(folder: Folder, report: Report) -> None:
    """A range without a commit is work that is left, or, once the job was done, a loss."""
    job, was_done = folder.job, folder.disk.size(folder.layout.success) is not None
    doubtful, num_left = report.doubtful, 0
    for index in range(num_ranges(job, job.num_rows)):
        commit = folder.commits.get(index)
        if index in doubtful or (is_covered(commit, bounds(job, index, job.num_rows)[1]) and commit is not None):
            continue
        num_left += 1
        if was_done:
            path = folder.layout.commit(index, commit.generation if commit else 1)
            report.damages.append(Damage(path, "the job is marked as done, and this range has no commit", index))
    if num_left and not was_done:
        report.notes.append(f"{num_left} of {num_ranges(job, job.num_rows)} ranges are left; run the job to go on")
        if num_rows := _num_journalled(folder, report):
            report.notes.append(f"{num_rows} finished rows of them are in journals")


def _num_journalled(folder: Folder, report: Report) -> int:
    """Rows that a next run need not do again. Of a journal that is not whole, reading it says so."""
    if folder.job.rerun is not None:  # its rows count as done
        return 0
    disk, layout, rows = folder.disk, folder.layout, set[int]()
    for name in filter(journal_key, disk.names(layout.journals)):
        with report.reading(layout.journals / name):
            for batch in read_journal(disk, layout.journals / name, journal_schema(folder)):
                rows.update(batch.column(0).to_pylist())
    size = folder.job.rows_per_shard
    return sum(not is_covered(folder.commits.get(row // size), row + 1) for row in rows)


def _check_success(folder: Folder, report: Report) -> None:
    path = folder.layout.success
    if folder.disk.size(path) is None:
        return
    try:
        with report.reading(path):
            unseal(folder.disk.read(path))
    except Broken as error:
        report.damages.append(Damage(path, str(error)))
    left = leftovers(folder)
    if left:
        report.notes.append(f"{len(left)} files in {folder.layout.hidden} no longer serve; repair removes them")


def leftovers(folder: Folder) -> list[Path]:
    """What runs wrote on the way to a job that is done: a writer that wakes up late leaves it behind."""
    places = (folder.layout.stage, folder.layout.journals)
    return [place / name for place in places for name in folder.disk.names(place)]
