"""The durable output of a job: open it, take the ranges that are left, write each row's result, finish."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from runner.errors import StorageError
from runner.output.columns import Columns
from runner.output.commits import Totals
from runner.output.disk import Disk
from runner.output.folder import Folder, clear_folder, guard, make_folder, make_part_dirs, refuse_foreign
from runner.output.job import JobRecord, admit, job_record, read_job, rewrite_job, write_new_job
from runner.output.layout import Layout
from runner.output.ledger import Ledger
from runner.output.lock import FolderLock
from runner.output.ranges import Range, owned
from runner.output.recovery import new_attempt, open_ranges, replay, roll_forward, sweep_stage
from runner.output.writer import Writer
from runner.types import RowResult

_LOCK_SECONDS = 3.0


@dataclass(frozen=True)
class OutputSpec:
    """What a run asks of its output.

    ``fingerprint`` holds everything that decides what is written, by setting name; a difference to what the
    folder's job began with is refused unless ``accept`` names it. Those named in ``growable`` (such as
    "input.limit") may differ while ``num_rows`` differs too: the job is extended, or was already.
    ``inventory`` is kept with the job for the caller and handed back by `recorded_job`. ``partition`` is
    (w, W): this run does the ranges k with k mod W = w. At most ``max_open_ranges`` are in work at once.
    """

    job_name: str
    columns: Columns
    num_rows: int
    fingerprint: Mapping[str, Any]
    rows_per_shard: int = 1000
    sync_seconds: float = 10.0
    partition: tuple[int, int] = (0, 1)
    inventory: Mapping[str, Any] = field(default_factory=dict)
    accept: tuple[str, ...] = ()
    growable: tuple[str, ...] = ()
    overwrite: bool = False
    max_open_ranges: int = 8
    lock_seconds: float = _LOCK_SECONDS


@dataclass(frozen=True)
class Summary:
    """What a run leaves: sums over the whole folder, whether the job is complete, and how to load it."""

    path: Path
    totals: Totals
    is_complete: bool
    num_parts: int

    @property
    def load_line(self) -> str:
        return f'from datasets import load_dataset; rows = load_dataset("{self.path}", split="train")'


def recorded_job(path: str | Path) -> JobRecord | None:
    """The job that a folder holds, with its inventory; None when there is none. Reads one small file."""
    return read_job(Disk(), Layout(Path(path)))


class Output:
    """One run's hold on an output folder. One caller thread; a second thread does the writing.

    Every method may raise `StorageError` (the disk refused; nothing that was durable is lost), also for
    something that an earlier call handed over.
    """

    def __init__(self, folder: Folder, spec: OutputSpec, lock: FolderLock | None) -> None:
        self.is_done = lock is None
        """The whole job was done before this run: there is nothing to write, and `finish` only reports."""
        self._folder = folder
        self._spec = spec
        self._lock = lock
        self._left: list[Range] = []
        self._next = 0
        self._lacking: dict[int, set[int]] = {}
        self._ledger: Ledger | None = None
        self._writer: Writer | None = None

    @classmethod
    def open(cls, path: str | Path, spec: OutputSpec, disk: Disk | None = None) -> Output:
        """Makes the folder, or goes on where its earlier runs stopped.

        A folder whose job is done under the same settings is not touched: `is_done` is true then. Raises
        `ConfigError` (changed settings or input, or a folder that is not ours), `LockedError` (another runner
        works on this partition), `DamageError` (see `runner.repair`) and `StorageError`.
        """
        layout, disk = Layout(Path(path)), disk or Disk()
        asked = _asked_job(spec)
        if spec.overwrite:
            clear_folder(disk, layout)
        job = read_job(disk, layout)
        if job is None:
            refuse_foreign(disk, layout)
        else:
            folder = Folder(disk, layout, admit(job, asked, spec.accept, spec.growable), spec.columns)
            if folder.job == job and _is_done(folder, spec):
                folder.mend_card()
                return cls(folder, spec, lock=None)
        make_folder(disk, layout)
        lock = FolderLock(layout.lock(spec.partition), wait_seconds=spec.lock_seconds)
        try:
            folder = Folder(disk, layout, _settle_job(disk, layout, asked, spec), spec.columns)
            output = cls(folder, spec, lock)
            output._recover()
            return output
        except BaseException:
            lock.release()
            raise

    def _recover(self) -> None:
        folder, spec = self._folder, self._spec
        make_part_dirs(folder.disk, folder.layout)
        folder.load_commits()
        roll_forward(folder, self._own())
        folder.retract_success()
        sweep_stage(folder)
        ranges = open_ranges(folder, self._own(), spec.num_rows)
        journals = replay(folder, ranges, spec.partition)
        folder.refresh_card()
        for item in ranges.values():
            if not item.is_complete:
                self._left.append(Range(item.index, item.start, item.stop, frozenset(item.done)))
        self._ledger = Ledger(folder, new_attempt(folder, spec.partition), ranges, journals)
        self._ledger.commit_complete(ranges)
        self._writer = Writer(self._ledger, spec.sync_seconds)

    def _own(self) -> range:
        return owned(self._folder.job, self._spec.num_rows, self._spec.partition)

    @property
    def path(self) -> Path:
        return self._folder.layout.root

    @property
    def columns(self) -> Columns:
        return self._spec.columns

    @property
    def ranges_left(self) -> int:
        """Ranges of this partition that `take_range` has still to give."""
        return len(self._left) - self._next

    @property
    def totals(self) -> Totals:
        """The sums over all rows that are committed or journalled; lags behind `write` by up to a second."""
        return self._writer.totals if self._writer else self._folder.totals()

    def take_range(self) -> Range | None:
        """The next range to do, in order. None while ``max_open_ranges`` lack rows, and when none is left."""
        if not self.ranges_left or len(self._lacking) >= self._spec.max_open_ranges:
            return None
        item = self._left[self._next]
        self._next += 1
        self._lacking[item.index] = set(range(item.start, item.stop)).difference(item.done)
        return item

    def write(self, result: RowResult) -> None:
        """Hands over everything that one row came to; cheap, and never waits for a sync.

        The row must be of a range that `take_range` gave, and lack its result. The range is committed when
        its last row is written.
        """
        index = result.row_id // self._folder.job.rows_per_shard
        lacking = self._lacking.get(index)
        if lacking is None or result.row_id not in lacking:
            raise ValueError(f"row {result.row_id} is not one that lacks a result")
        assert self._writer is not None  # ranges are given only while it runs
        self._writer.put(result)
        lacking.remove(result.row_id)
        if not lacking:
            del self._lacking[index]

    def flush(self) -> None:
        """Returns when everything written so far survives a power cut."""
        if self._writer:
            self._writer.flush()

    def finish(self) -> Summary:
        """Flushes and, when all ranges of all partitions are committed, marks the job as done."""
        folder = self._folder
        if not self.is_done:
            self.flush()
            self._stop()
            with guard(folder.layout):
                folder.load_commits()
                roll_forward(folder, self._own())
                folder.write_card()
                if folder.is_complete(folder.job.num_rows):
                    folder.succeed()
        return Summary(self.path, folder.totals(), folder.is_complete(self._spec.num_rows), len(folder.commits))

    def close(self) -> None:
        """Flushes, unless writing has failed, and lets the folder go. Safe to call again."""
        try:
            if self._writer and not self._writer.has_failed:
                self._writer.flush()
        finally:
            try:
                self._stop()
            finally:
                if self._lock is not None:
                    self._lock.release()
                    self._lock = None

    def _stop(self) -> None:
        """Ends the writer; its files are closed and nothing more is synced."""
        writer, ledger = self._writer, self._ledger
        self._writer = self._ledger = None
        if writer is not None and ledger is not None:
            writer.stop()
            ledger.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _asked_job(spec: OutputSpec) -> JobRecord:
    """The record that a new folder would get."""
    return job_record(
        spec.job_name,
        secrets.token_hex(8),
        spec.fingerprint,
        spec.columns,
        spec.rows_per_shard,
        spec.num_rows,
        spec.inventory,
    )


def _is_done(folder: Folder, spec: OutputSpec) -> bool:
    if folder.disk.size(folder.layout.success) is None:
        return False
    folder.load_commits()
    return folder.is_complete(spec.num_rows)


def _settle_job(disk: Disk, layout: Layout, asked: JobRecord, spec: OutputSpec) -> JobRecord:
    """The job that this run goes on with: recorded, and durable."""
    with guard(layout):
        if write_new_job(disk, layout, asked):
            return asked
        job = read_job(disk, layout)
        if job is None:
            raise StorageError(f"output.dir: {layout.job} vanished while this run began; run again")
        settled = admit(job, asked, spec.accept, spec.growable)
        if settled != job:
            rewrite_job(disk, layout, settled)
        return settled
