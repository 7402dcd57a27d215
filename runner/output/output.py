"""The durable output of a job: open it, take the ranges that are left, write each row's result, finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from runner.output.columns import Columns
from runner.output.commits import Totals
from runner.output.disk import Disk
from runner.output.folder import Folder, guard, make_part_dirs
from runner.output.job import JobRecord, read_job
from runner.output.layout import Layout
from runner.output.leases import Leases
from runner.output.ledger import Ledger
from runner.output.opening import OutputSpec, Summary, end_rerun, own_ranges
from runner.output.ranges import OpenRange, Range
from runner.output.recovery import open_ranges, replay, roll_forward, sweep_stage
from runner.output.reservation import Reservation
from runner.output.share import FixedShare, Held, LeasedShare, Share, refuse_overlap
from runner.output.writer import Writer
from runner.types import RowResult

_IDLE_SECONDS = 0.2  # between two looks at what others hold, by a run that has nothing to do


def recorded_job(path: str | Path) -> JobRecord | None:
    """The job that a folder holds, with its inventory; None when there is none. Reads one small file."""
    return read_job(Disk(), Layout(Path(path)))


class Output:
    """One run's hold on an output folder. One caller thread; a second thread does the writing.

    Every method may raise `StorageError` (the disk refused; nothing that was durable is lost), also for
    something that an earlier call handed over.
    """

    def __init__(self, reservation: Reservation, folder: Folder) -> None:
        self.is_done = reservation.is_done
        """The whole job was done before this run: there is nothing to write, and `finish` only reports."""
        self._reservation = reservation
        self._folder = folder
        self._spec = reservation.spec
        self._share: Share = FixedShare(())
        self._lacking: dict[int, set[int]] = {}
        self._ledger: Ledger | None = None
        self._writer: Writer | None = None

    @classmethod
    def open(cls, path: str | Path, spec: OutputSpec, disk: Disk | None = None) -> Output:
        """Reserves a folder and begins at once. Raises as `Reservation` and `begin` do."""
        return cls.begin(Reservation(path, spec, disk))

    @classmethod
    def begin(cls, reservation: Reservation) -> Output:
        """Makes the folder the job's, or goes on where its earlier runs stopped; the reservation ends with the output.

        A folder whose job is done under the same settings is not touched. Raises `ConfigError` (another partition
        began with other settings), `LockedError`, `DamageError` (see `runner.repair`) and `StorageError`.
        """
        output = None
        try:
            if reservation.is_done:
                return cls(reservation, reservation.folder)
            output = cls(reservation, reservation.settle())
            output._recover()
            return output
        except BaseException as error:
            if output is not None:
                output._share.close()
            reservation.close(error)
            raise

    def _recover(self) -> None:
        folder, spec = self._folder, self._spec
        make_part_dirs(folder.disk, folder.layout)
        self._roll_forward()
        folder.retract_success()
        sweep_stage(folder)
        ranges: dict[int, OpenRange] = {}
        journals: dict[Path, set[int]] = {}
        if spec.partition is not None:
            ranges = open_ranges(folder, self._own(), spec.num_rows)
            journals = replay(folder, ranges, spec.partition)
        folder.refresh_card()
        self._share = FixedShare(ranges.values())
        attempt = self._reservation.attempt
        if spec.partition is None:
            self._lease(attempt)
        self._ledger = Ledger(folder, attempt, ranges, journals)
        self._ledger.commit_complete(ranges)
        self._writer = Writer(self._ledger, spec.sync_seconds)

    def _lease(self, attempt: int) -> None:
        leases = Leases(self._folder, attempt, self._spec.lease_seconds)
        try:
            refuse_overlap(self._folder.layout, None)  # one that began while this run's model was loading saw no lease
            self._share = LeasedShare(self._folder, leases, self._spec.num_rows, self._adopt)
        except BaseException:
            leases.close()
            raise

    def _adopt(self, item: OpenRange) -> None:
        assert self._writer is not None  # ranges are taken only while it runs
        self._writer.adopt(item)

    def _roll_forward(self) -> None:
        """Publishes what was committed. Without a partition's lock the guard keeps two runs from doing it at once."""
        folder = self._folder
        if self._spec.partition is None:
            with guard(folder.layout):
                folder.load_commits()
                roll_forward(folder, self._own())
        else:
            folder.load_commits()
            roll_forward(folder, self._own())

    def _own(self) -> range:
        return own_ranges(self._folder.job, self._spec)

    @property
    def path(self) -> Path:
        return self._folder.layout.root

    @property
    def columns(self) -> Columns:
        return self._spec.columns

    @property
    def ranges_left(self) -> int:
        """Ranges that `take_range` has still to give; leased ones also while others hold them."""
        return self._share.left

    @property
    def rows_to_redo(self) -> int:
        """At most so many finished rows a rerun has still to do again; of all partitions."""
        rerun, commits = self._folder.rerun, self._folder.commits.values()
        return (
            sum(rerun.selection.num_lines(commit.totals) for commit in commits if rerun.is_due(commit)) if rerun else 0
        )

    @property
    def totals(self) -> Totals:
        """The sums over all rows that are committed or journalled; lags behind `write` by up to a second."""
        return self._writer.totals if self._writer else self._folder.totals()

    def take_range(self, *, is_hungry: bool = False) -> Range | None:
        """The next range to do. None while ``max_open_ranges`` lack rows, while others hold the rest, and at the end.

        Also None when leased ranges get few, so that all end together; less soon with ``is_hungry``: its rows would
        begin at once. A run with nothing else to do is kept waiting a moment, so that it may ask again and again.
        """
        if not self.ranges_left:
            return None
        held = Held(len(self._lacking), sum(map(len, self._lacking.values())), is_hungry)
        item = self._share.take(held, self._spec.max_open_ranges)
        if item is None:
            if not self._lacking:
                self.flush()  # a range that is complete and waits for its commit: the others wait for it
                time.sleep(_IDLE_SECONDS)
            return None
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

    def finish(self, is_good: Callable[[Totals], bool] = lambda _: True) -> Summary:
        """Flushes and, when all ranges of all partitions are committed and ``is_good``, marks the job as done."""
        folder = self._folder
        if not self.is_done:
            self.flush()
            self._stop()
            with guard(folder.layout):
                folder.load_commits()
                roll_forward(folder, self._own())
                end_rerun(folder)
                is_told = folder.disk.size(folder.layout.success) is not None
                if not is_told:
                    folder.write_card()
                if not is_told and self._is_whole and is_good(folder.totals()):
                    folder.succeed()
        is_complete = folder.is_complete(self._spec.num_rows)
        return Summary(self.path, folder.totals(), is_complete, self._is_whole, len(folder.commits))

    @property
    def _is_whole(self) -> bool:
        """Every row that any run of the job asked for is done."""
        return self._folder.job.rerun is None and self._folder.is_complete(self._folder.job.num_rows)

    def close(self) -> None:
        """Flushes, unless writing has failed, and lets the folder go. Safe to call again."""
        try:
            if self._writer and not self._writer.has_failed:
                self._writer.flush()
        finally:
            try:
                self._stop()
            finally:
                self._share.close()
                self._reservation.close()

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
