"""Compiles a model's decoder layers once for all of them, around attention that the compiler does not look into.

Every layer has the same code, so one compilation with a dynamic number of tokens serves all layers and all batch
sizes. Attention and the KV write are one opaque operation: the compiler sees neither the cache nor the batch.
"""

from __future__ import annotations

import itertools
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from runner.engine.hook import LayerAttention
from runner.engine.operations import register_operation

# A custom operation can be handed tensors and numbers only, so it finds its layer by number.
_LAYERS: WeakValueDictionary[int, OpaqueLayer] = WeakValueDictionary()
_NUMBERS = itertools.count()


class OpaqueLayer:
    """A layer's attention as an operation that the compiler calls and does not trace."""

    def __init__(self, layer: LayerAttention) -> None:
        self.layer = layer
        number = next(_NUMBERS)
        # On the CPU and a tensor: as a Python number it would be compiled in, once for each layer.
        self.number = torch.tensor(number)
        _LAYERS[number] = self

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        return torch.ops.runner.paged_attention(query, key, value, self.number, sinks)


def _paged_attention(query: Tensor, key: Tensor, value: Tensor, number: Tensor, sinks: Tensor | None) -> Tensor:
    """query [1, H, T, D], key and value [1, KVH, T, D] -> [1, T, H, Dv]. Writes the cache, which nothing else sees."""
    return _LAYERS[int(number)].layer(query, key, value, None, None, None, sinks)


def _shape_of_paged_attention(
    query: Tensor, key: Tensor, value: Tensor, number: Tensor, sinks: Tensor | None
) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


register_operation("paged_attention", _paged_attention, _shape_of_paged_attention)


def compile_layers(layers: list[nn.Module]) -> None:
    """Compiles decoder layers in place; the work is done at their first call."""
    for layer in layers:
        layer.compile(dynamic=True, fullgraph=True)
