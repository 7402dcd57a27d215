"""The rows that are still to do, read and rendered in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from runner.output import SampleKeys
from runner.run.inflight import RowWork
from runner.run.rerun import narrow
from runner.types import Request, RowError, RowResult, SourceRow


class RowReader(Protocol):
    """Reads rows ``[start, stop)`` of a frozen inventory, in order, one value a row."""

    def read(self, start: int, stop: int) -> Iterator[SourceRow | RowError]: ...


class Renderer(Protocol):
    """Renders rows: the requests of each, or errors in their place; an empty list drops the row."""

    def render(self, rows: Sequence[SourceRow]) -> list[list[Request | RowError]]: ...


class Range(Protocol):
    """Input rows [start, stop) to do, but for those in ``done``; of those in ``redo`` only these samples."""

    @property
    def start(self) -> int: ...

    @property
    def stop(self) -> int: ...

    @property
    def done(self) -> frozenset[int]: ...

    @property
    def redo(self) -> Mapping[int, SampleKeys]: ...


class Ranges(Protocol):
    """What is left to do; `take_range` gives None while too many ranges are open, and when none is left."""

    @property
    def ranges_left(self) -> int: ...

    def take_range(self, *, is_hungry: bool = False) -> Range | None:
        """``is_hungry``: the rows would begin at once, and do not only wait in store."""


class WorkSource:
    """Hands out rows in the order of their ids; holds one batch at a time.

    An unreadable or dropped row stands for ``samples_per_row`` samples.
    """

    def __init__(self, ranges: Ranges, reader: RowReader, renderer: Renderer, samples_per_row: int = 1) -> None:
        self._ranges = ranges
        self._reader = reader
        self._renderer = renderer
        self._samples_per_row = samples_per_row
        self._rows: Iterator[SourceRow | RowError] = iter(())
        self._redo: dict[int, SampleKeys] = {}
        self._left_in_range = 0
        self._is_refused = False  # the last time that it asked for a range

    @property
    def exhausted(self) -> bool:
        """Whether every row has been handed out."""
        return not self._left_in_range and not self._ranges.ranges_left

    @property
    def is_dry(self) -> bool:
        """Whether no row is to be had now: all are handed out, or others hold the rest, or too many ranges are open."""
        return not self._left_in_range and (self._is_refused or not self._ranges.ranges_left)

    def read(self, num_rows: int, *, is_hungry: bool = False) -> list[SourceRow | RowError]:
        """Up to ``num_rows`` next rows; none when no further range may be opened yet.

        For a hungry engine one range is asked for with more force.
        """
        batch: list[SourceRow | RowError] = []
        while len(batch) < num_rows and (self._left_in_range or self._open_range(is_hungry=is_hungry and not batch)):
            wanted = min(num_rows - len(batch), self._left_in_range)
            batch += islice(self._rows, wanted)
            self._left_in_range -= wanted
        if batch and not self._left_in_range:
            self._open_range()  # shows at once whether the engine is to expect more
        return batch

    def render(self, batch: Sequence[SourceRow | RowError]) -> tuple[list[RowWork], list[RowResult]]:
        """The rows to generate, and the results of those that end here."""
        works: list[RowWork] = []
        ended = [self._unreadable(item) for item in batch if isinstance(item, RowError)]
        for result in ended:
            self._narrow(result, [])
        rows = [item for item in batch if isinstance(item, SourceRow)]
        for row, items in zip(rows, self._renderer.render(rows), strict=True):
            requests = [item for item in items if isinstance(item, Request)]
            errors = [item for item in items if isinstance(item, RowError)]
            result = RowResult(row.row_id, errors=errors, row=row)
            if not items:
                result.dropped = self._num_samples(row.row_id)
            wanted = self._narrow(result, requests)
            if wanted or (wanted is None and requests):
                works.append(RowWork(row, requests, result, wanted or set()))
            else:
                ended.append(result)
        return works, ended

    def _narrow(self, result: RowResult, requests: list[Request]) -> set[tuple[int, int]] | None:
        """Of a row that is done again only what is to be; the samples to generate, None for all."""
        wanted = self._redo.pop(result.row_id, None)
        return None if wanted is None else narrow(result, requests, wanted)

    def _num_samples(self, row_id: int) -> int:
        """How many samples a row stands for that the job drops."""
        wanted = self._redo.pop(row_id, frozenset({(None, None)}))
        return sum(self._samples_per_row if sample is None else 1 for _, sample in wanted)

    def _open_range(self, *, is_hungry: bool = False) -> bool:
        found = self._ranges.take_range(is_hungry=is_hungry)
        self._is_refused = found is None
        if found is None:
            return False
        self._redo.update(found.redo)
        rows = self._reader.read(found.start, found.stop)
        self._rows = (row for row in rows if row.row_id not in found.done)
        self._left_in_range = sum(row_id not in found.done for row_id in range(found.start, found.stop))
        return True

    def _unreadable(self, error: RowError) -> RowResult:
        error.num_samples = self._samples_per_row
        return RowResult(error.row_id, errors=[error])
