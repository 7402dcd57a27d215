"""Ranges of input rows: which belong to a partition, and what one has gathered so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from runner.output.columns import Columns
from runner.output.commits import Commit, Totals
from runner.output.entries import Entries
from runner.output.job import JobRecord
from runner.output.rerun import SampleKeys, Split


@dataclass(frozen=True)
class Range:
    """Input rows [start, stop) to do; the rows in ``done`` have their results already.

    Of the rows in ``redo`` only these samples are to be done.
    """

    index: int
    start: int
    stop: int
    done: frozenset[int] = frozenset()
    redo: Mapping[int, SampleKeys] = field(default_factory=dict)


def bounds(job: JobRecord, index: int, num_rows: int) -> tuple[int, int]:
    """[start, stop) of a range in an input of ``num_rows`` rows."""
    start = index * job.rows_per_shard
    return start, min(start + job.rows_per_shard, num_rows)


def num_ranges(job: JobRecord, num_rows: int) -> int:
    """At least one: a job without rows still leaves one part, so that its folder loads."""
    return max(1, -(-num_rows // job.rows_per_shard))


def owned(job: JobRecord, num_rows: int, partition: tuple[int, int]) -> range:
    """The ranges of partition (w, W), in order."""
    return range(partition[0], num_ranges(job, num_rows), partition[1])


def is_covered(commit: Commit | None, stop: int) -> bool:
    """Whether a commit stands for its range up to row ``stop``."""
    return commit is not None and not commit.is_tombstone and commit.stop >= stop


class OpenRange:
    """What a range that is not committed yet has gathered, beside what it takes over from ``base``.

    ``split`` reads the parts of the base: the lines that stay, and what of it is to be done again.
    ``is_rerun``: something is, and nothing is read before it is asked for.
    """

    def __init__(
        self,
        index: int,
        start: int,
        stop: int,
        generation: int,
        base: Commit | None = None,
        split: Callable[[], Split] | None = None,
        *,
        is_rerun: bool = False,
    ) -> None:
        self.index = index
        self.start = start
        self.stop = stop
        self.generation = generation
        self.base = base
        self.is_rerun = is_rerun
        self.data: list[pa.RecordBatch] = []
        self.errors: list[pa.RecordBatch] = []
        self.totals = Totals()
        self.redo: Mapping[int, SampleKeys] = {}
        self._split = split
        self._done: set[int] | None = None if is_rerun else set(range(base.start, base.stop) if base else ())

    @property
    def done(self) -> set[int]:
        if self._done is None:
            self.redo = self.kept().chosen
            self._done = set(range(self.start, self.stop)).difference(self.redo)
        return self._done

    @property
    def is_complete(self) -> bool:
        return self._done is not None and len(self._done) == self.stop - self.start

    def kept(self) -> Split:
        """What stays of the base; raises `DamageError` when its parts are not what was committed."""
        assert self._split is not None  # only a range with a base is asked
        return self._split()

    def lacks(self, row_id: int) -> bool:
        return self.start <= row_id < self.stop and row_id not in self.done

    def add(self, entries: Entries, columns: Columns) -> Totals:
        """Takes finished rows; returns what they sum to."""
        totals = totals_of(len(entries.row_ids), entries.dropped, entries.data, entries.errors, columns)
        self.done.update(entries.row_ids)
        self.data.append(entries.data)
        self.errors.append(entries.errors)
        self.totals.add(totals)
        return totals


def totals_of(
    num_rows: int,
    dropped: int,
    data: pa.RecordBatch | pa.Table,
    errors: pa.RecordBatch | pa.Table,
    columns: Columns,
) -> Totals:
    """The sums over rows that are in ``data`` and ``errors`` as a whole."""
    row_ids = pc.unique(data.column(columns.names["row_id"]))
    failed_ids = pc.unique(errors.column(columns.error_names["row_id"]))
    return Totals(
        rows=num_rows,
        samples=data.num_rows,
        failed_rows=len(failed_ids),
        failed_samples=_sum(errors.column(columns.error_names["num_samples"])),
        empty_rows=num_rows - len(pa.concat_arrays([row_ids, failed_ids]).unique()),
        dropped=dropped,
        prompt_tokens=_sum(data.column(columns.names["prompt_tokens"])),
        completion_tokens=_sum(data.column(columns.names["completion_tokens"])),
        errors=_counts(errors.column(columns.error_names["code"])),
        finish_reasons=_counts(data.column(columns.names["finish_reason"])),
    )


def _counts(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()} if len(column) else {}


def _sum(column: pa.Array | pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0
