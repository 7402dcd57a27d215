"""One matrix product where a model's code asks for several of the same input: q, k, v and gate, up.

The modules are replaced, not the model's code: the first of a group computes all parts at once, the others hand
out theirs. The original parameters stay under their names, as views of the fused ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.engine.linear.wide import is_wide, wide_linear

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # in the order in which models call them


def fuse_linears(model: nn.Module) -> int:
    """Fuses every group of plain linears that it finds in place and returns how many. Call it before `probe`.

    Needs memory for one more group while it works. Weights must not be moved or cast afterwards.
    """
    count = 0
    for parent in list(model.modules()):
        for names in _GROUPS:
            linears = _plain_linears(parent, names)
            if linears and _alike(linears):
                for name, part in zip(names, _fused_parts(linears), strict=True):
                    setattr(parent, name, part)
                count += 1
    return count


def _plain_linears(parent: nn.Module, names: tuple[str, ...]) -> list[nn.Linear]:
    """The linears of these names, or none when one is missing, quantised or adapted."""
    found = [getattr(parent, name, None) for name in names]
    linears = [linear for linear in found if type(linear) is nn.Linear]
    return linears if len(linears) == len(names) else []


def _alike(linears: list[nn.Linear]) -> bool:
    """Equal in all but their number of outputs."""
    return len({(x.in_features, x.weight.dtype, x.weight.device, x.bias is None) for x in linears}) == 1


@torch.no_grad()
def _fused_parts(linears: list[nn.Linear]) -> list[FusedPart]:
    sizes = [linear.out_features for linear in linears]
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    group = _Group(weight, bias, sizes)
    weights = weight.split(sizes)
    biases = [None] * len(sizes) if bias is None else bias.split(sizes)
    return [FusedPart(group, index, weights[index], biases[index]) for index in range(len(sizes))]


class FusedPart(nn.Module):
    """Stands where a linear stood: x [..., in_features] -> [..., out_features], a view of its group's output."""

    def __init__(self, group: _Group, index: int, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = weight.shape
        self._group = group
        self._index = index

    @property
    def fused_weight(self) -> Tensor:
        """[sum of the group's out_features, in_features]."""
        return self._group.weight

    @property
    def fused_bias(self) -> Tensor | None:
        """[sum of the group's out_features]."""
        return self._group.bias

    def forward(self, x: Tensor) -> Tensor:
        return self._group.take(self._index, x)


class _Group:
    """The fused weight [sum of sizes, in_features] and, from the first part's call to the last one's, its output."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sizes: list[int]) -> None:
        self.weight = weight
        self.bias = bias
        self._sizes = sizes
        self._linear = wide_linear if is_wide(weight) else functional.linear
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def take(self, index: int, x: Tensor) -> Tensor:
        if index == 0:
            self._input = x
            self._outputs = self._linear(x, self.weight, self.bias).split(self._sizes, dim=-1)
        assert x is self._input, "fused linears were given different inputs"
        output = self._outputs[index]
        if index == len(self._sizes) - 1:  # else each layer's output would live until its next step
            self._input, self._outputs = None, ()
        return output
