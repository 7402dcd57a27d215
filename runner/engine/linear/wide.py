"""Wide linear layers on CUDA: a kernel of ours for the few rows of a small decode step, cuBLAS for all others.

Only the widest gain: on an H100 0.5 to 8 % at 28,672, 128,256 and 151,936 rows of the weight, while at 20,480 ours
is 10 % slower than cuBLAS from 32 rows of the input on. The choice is made when a step runs
or its graph is captured, so the compiler sees one opaque operation whatever the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.engine.operations import register_operation

_FEWEST_FEATURES = 28_672


def is_wide(weight: Tensor) -> bool:
    """Whether `wide_linear` is worth it for a weight [N, K]."""
    return weight.is_cuda and weight.dtype.itemsize == 2 and len(weight) >= _FEWEST_FEATURES


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] times weight [N, K] transposed, plus bias [N] -> [..., N]."""
    return torch.ops.runner.wide_linear(x, weight, bias)


def _wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from runner.engine.linear.few_rows import MAX_ROWS, few_rows_linear  # Triton is there on CUDA only

    rows = x.numel() // x.shape[-1]
    if 0 < rows <= MAX_ROWS:
        return few_rows_linear(x.reshape(rows, -1), weight, bias).view(*x.shape[:-1], -1)
    return functional.linear(x, weight, bias)


def _shape_of_wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


register_operation("wide_linear", _wide_linear, _shape_of_wide_linear)


class WideLinear(nn.Module):
    """Stands where a wide linear stood, with its parameters under their names."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = linear.weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return wide_linear(x, self.weight, self.bias)


def replace_wide_linears(model: nn.Module) -> int:
    """Replaces every plain wide linear of a model in place, its head above all, and returns how many."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and is_wide(child.weight)
    ]
    for parent, name, child in found:
        setattr(parent, name, WideLinear(child))
    return len(found)
