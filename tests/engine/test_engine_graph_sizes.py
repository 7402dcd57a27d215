"""Which batch sizes get a CUDA graph."""

from __future__ import annotations

import bisect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.engine.graph_sizes import candidate_sizes, linear_costs, sizes_worth_a_graph

MEASURED = {
    256: 208,
    320: 233,
    384: 271,
    400: 345,
    416: 320,
    432: 283,
    448: 435,
    464: 321,
    480: 308,
    496: 302,
    512: 304,
}


@given(st.integers(1, 2048))
def test_candidates_end_at_the_largest_batch(largest: int) -> None:
    sizes = candidate_sizes(largest)
    assert sizes[-1] == largest
    assert sizes[0] == min(2, largest)
    assert sizes == sorted(set(sizes))


@given(st.dictionaries(st.integers(1, 600), st.floats(0.1, 100), min_size=1))
def test_no_batch_is_padded_to_a_size_that_costs_more_than_a_larger_one(costs: dict[int, float]) -> None:
    kept = sizes_worth_a_graph(costs)
    assert kept[-1] == max(costs)
    for size in costs:
        chosen = kept[bisect.bisect_left(kept, size)]
        cheapest = min(cost for other, cost in costs.items() if other >= size)
        assert costs[chosen] <= cheapest / 0.98


def test_what_cublas_does_badly_is_passed_over() -> None:
    assert sizes_worth_a_graph(MEASURED) == [256, 320, 384, 432, 512]


def test_where_rows_are_free_the_ladder_is_left() -> None:
    costs = {size: 100 + size / 1000 for size in candidate_sizes(256)}
    assert sizes_worth_a_graph(costs) == [2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_linears_are_timed_on_the_device() -> None:
    stream = torch.cuda.Stream()
    layers = [torch.nn.Linear(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    with torch.cuda.stream(stream):
        costs = linear_costs(layers, [8, 4096])
    assert 0 < costs[8] < costs[4096]
