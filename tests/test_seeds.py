"""The seed of a sample: its row's or its request's own, and always one that an int64 column holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.seeds import sample_seed, seed_of

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def test_without_an_own_seed_the_row_decides() -> None:
    assert seed_of(None, 7, 3, 1, 2) == sample_seed(7, 3, 1, 2)


def test_an_own_seed_counts_up_over_the_samples_wherever_they_are() -> None:
    assert [seed_of(40, run, row, 0, index) for run, row, index in ((0, 0, 0), (5, 9, 1), (0, 1, 2))] == [40, 41, 42]


def test_the_largest_seed_goes_on_at_the_smallest() -> None:
    assert seed_of((1 << 63) - 1, 0, 0, 0, 1) == -(1 << 63)


@given(own=st.none() | INT64, run=INT64, row=st.integers(0, 1 << 50), index=st.integers(0, 1 << 20))
def test_every_seed_is_an_int64(own: int | None, run: int, row: int, index: int) -> None:
    assert -(1 << 63) <= seed_of(own, run, row, 0, index) < 1 << 63
