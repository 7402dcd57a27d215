"""When a run knows that no further row is to be had for now."""

from __future__ import annotations

import pytest
from fakes import Asked, Rendering, Rows, Span, Spans

from runner.run.source import WorkSource


class Shared(Spans):
    """The first range is ours, another process holds the second; it may come to us later."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self.is_held = True

    def take_range(self, *, is_hungry: bool = False) -> Span | None:
        return super().take_range(is_hungry=is_hungry) if len(self._left) > 1 or not self.is_held else None


def source_of(ranges: Spans) -> WorkSource:
    return WorkSource(ranges, Rows(14), Rendering())


@pytest.mark.parametrize("batch", [7, 3, 100])
def test_it_is_dry_as_soon_as_others_hold_the_rest(batch: int) -> None:
    ranges = Shared(14)
    source = source_of(ranges)
    num_read = 0
    while not source.is_dry:
        num_read += len(source.read(batch))
    assert num_read == 7 and not source.exhausted
    ranges.is_held = False
    assert len(source.read(100)) == 7
    assert source.is_dry and source.exhausted


def test_a_range_that_is_done_but_for_a_row_ends_with_that_row() -> None:
    source = source_of(Spans(7, done=frozenset(range(6))))
    assert [row.row_id for row in source.read(1)] == [6]
    assert source.exhausted


def test_for_a_hungry_engine_one_range_at_a_time_is_asked_for_with_force() -> None:
    ranges = Asked(35)
    source = WorkSource(ranges, Rows(35), Rendering())
    assert len(source.read(5, is_hungry=True)) == 5
    assert ranges.asked == [True]
    assert len(source.read(5, is_hungry=True)) == 2
    assert ranges.asked == [True, False, False]  # the last of them looks ahead
    assert len(source.read(14, is_hungry=True)) == 7
    assert ranges.asked[3:] == [True, False, False]


def test_what_is_left_is_not_dry() -> None:
    source = source_of(Spans(14))
    source.read(7)
    assert not source.is_dry and not source.exhausted
