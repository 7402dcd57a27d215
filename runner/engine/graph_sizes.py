"""Which batch sizes of decode steps get a CUDA graph.

cuBLAS does not treat all numbers of rows alike: on an H100 the linears of an 8B model take 302 us a layer at 496 rows
and 435 at 448. So they are timed once at the start, and a batch is padded to the size that is cheapest for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from runner.engine.linear.weights import linear_weights

# Padding within it costs next to nothing. Not 1: the compiler would compile all anew for it.
_LADDER = frozenset([2, 4, 8, 16, 24, 32, 48, 64, *range(96, 257, 32)])
_GAIN = 0.02  # a size between is worth the capture of a graph if the linears save as much
_LAYERS = 2  # timed: fewer would be read from the L2 cache, more would take longer
_REPLAYS = 3


def candidate_sizes(max_num_seqs: int) -> list[int]:
    """All sizes that may be worth a graph, in order; the last is ``max_num_seqs``."""
    sizes = {*_LADDER, *range(8, 257, 8), *range(272, max_num_seqs, 16)}
    return sorted({size for size in sizes if size < max_num_seqs} | {max_num_seqs})


def sizes_worth_a_graph(costs: Mapping[int, float]) -> list[int]:
    """Of the sizes in ``costs``, each with what a step costs at it, those to capture; always the largest."""
    kept: list[int] = []
    cheapest = float("inf")
    for size in sorted(costs, reverse=True):
        if costs[size] < cheapest and (size in _LADDER or costs[size] < (1 - _GAIN) * cheapest):
            kept.append(size)
            cheapest = costs[size]
    return kept[::-1]


def linear_costs(layers: Sequence[nn.Module], sizes: Sequence[int]) -> dict[int, float]:
    """Milliseconds that the linears of the first layers take at each number of rows, on the current CUDA stream."""
    weights = [weight for layer in layers[:_LAYERS] for weight, _ in linear_weights(layer)]
    inputs = {
        (weight.shape[1], weight.dtype): torch.randn(max(sizes), weight.shape[1], device=weight.device).to(weight.dtype)
        for weight in weights
    }

    def run(num_rows: int) -> None:
        for weight in weights:
            functional.linear(inputs[weight.shape[1], weight.dtype][:num_rows], weight)

    return {size: _milliseconds(run, size) for size in sizes}


def _milliseconds(run: Callable[[int], None], size: int) -> float:
    """The fastest of some replays of a graph: launching would take longer than small kernels do."""
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        run(size)  # cuBLAS makes its work space outside of a graph
        graph.capture_begin(capture_error_mode="thread_local")
        run(size)
        graph.capture_end()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(_REPLAYS + 1)]
        events[0].record()
        for event in events[1:]:
            graph.replay()
            event.record()
        events[-1].synchronize()
    return min(float(begin.elapsed_time(end)) for begin, end in itertools.pairwise(events))
