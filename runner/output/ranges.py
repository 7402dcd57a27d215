"""Ranges of input rows: which belong to a partition, and what one has gathered so far."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from runner.output.columns import Columns
from runner.output.commits import Commit, Totals
from runner.output.entries import Entries
from runner.output.job import JobRecord


@dataclass(frozen=True)
class Range:
    """Input rows [start, stop) to do; the rows in ``done`` have their results already."""

    index: int
    start: int
    stop: int
    done: frozenset[int] = frozenset()


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
    """What a range that is not committed yet has gathered."""

    def __init__(self, index: int, start: int, stop: int, generation: int) -> None:
        self.index = index
        self.start = start
        self.stop = stop
        self.generation = generation
        self.done: set[int] = set()
        self.data: list[pa.RecordBatch] = []
        self.errors: list[pa.RecordBatch] = []
        self.totals = Totals()

    @property
    def is_complete(self) -> bool:
        return len(self.done) == self.stop - self.start

    def lacks(self, row_id: int) -> bool:
        return self.start <= row_id < self.stop and row_id not in self.done

    def add(self, entries: Entries, columns: Columns) -> Totals:
        """Takes finished rows; returns what they sum to."""
        totals = totals_of(entries, columns)
        self.done.update(entries.row_ids)
        self.data.append(entries.data)
        self.errors.append(entries.errors)
        self.totals.add(totals)
        return totals

    def add_committed(self, commit: Commit, data: pa.Table, errors: pa.Table | None) -> None:
        """Takes over what an earlier generation of this range holds."""
        self.done.update(range(commit.start, commit.stop))
        self.data.extend(data.to_batches())
        self.errors.extend(errors.to_batches() if errors is not None else [])
        self.totals.add(commit.totals)


def totals_of(entries: Entries, columns: Columns) -> Totals:
    """The sums over the rows of ``entries``; each row is in them as a whole."""
    row_ids = entries.data.column(columns.names["row_id"]).unique()
    if not entries.errors.num_rows:
        failed_ids = row_ids.slice(0, 0)
        codes: dict[str, int] = {}
    else:
        failed_ids = entries.errors.column(columns.error_names["row_id"]).unique()
        counts = pc.value_counts(entries.errors.column(columns.error_names["code"]))
        codes = {item["values"]: item["counts"] for item in counts.to_pylist()}
    present = len(pa.concat_arrays([row_ids, failed_ids]).unique())
    return Totals(
        rows=len(entries.row_ids),
        samples=entries.data.num_rows,
        failed_rows=len(failed_ids),
        failed_samples=_sum(entries.errors.column(columns.error_names["num_samples"])),
        empty_rows=len(entries.row_ids) - present,
        dropped=entries.dropped,
        prompt_tokens=_sum(entries.data.column(columns.names["prompt_tokens"])),
        completion_tokens=_sum(entries.data.column(columns.names["completion_tokens"])),
        errors=codes,
    )


def _sum(column: pa.Array) -> int:
    return pc.sum(column).as_py() or 0
