"""Which batch sizes get a CUDA graph."""

from __future__ import annotations

import bisect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model
from torch import nn

from runner.engine import graph_sizes
from runner.engine.fuse import fuse_linears
from runner.engine.graph_sizes import _linear_weights, candidate_sizes, linear_costs, load_products, sizes_worth_a_graph

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


def test_the_linears_of_a_layer_are_found_once_and_fused_ones_as_one() -> None:
    model = tiny_model("llama")
    fuse_linears(model)
    layer, config = model.model.layers[0], model.config
    shapes = sorted(tuple(weight.shape) for weight in _linear_weights(layer))
    hidden, inner = config.hidden_size, config.intermediate_size
    head_dim = config.hidden_size // config.num_attention_heads
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    assert shapes == sorted([(heads, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_linears_are_timed_on_the_device() -> None:
    stream = torch.cuda.Stream()
    layers = [torch.nn.Linear(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    with torch.cuda.stream(stream):
        costs = linear_costs(layers, [8, 4096])
    assert 0 < costs[8] < costs[4096]


def test_products_of_all_batches_and_of_steps_of_prompts_are_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    fuse_linears(model)
    called: dict[tuple[int, ...], list[int]] = {}

    def note(x: torch.Tensor, weight: torch.Tensor) -> None:
        called.setdefault(tuple(weight.shape), []).append(len(x))

    monkeypatch.setattr(graph_sizes.functional, "linear", note)
    load_products(model.model.layers[0], model.lm_head, 100, 4000)
    batches = candidate_sizes(100)
    assert called.pop(tuple(model.lm_head.weight.shape)) == batches
    assert len(called) == 4
    assert {tuple(sizes) for sizes in called.values()} == {(*batches, *range(125, 4001, 125))}
    load_products(nn.Identity(), None, 1, 8)
