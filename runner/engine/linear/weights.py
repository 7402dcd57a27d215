"""What a module multiplies with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class LinearWeights(NamedTuple):
    """``weight`` [N, K] and, if there is one, ``bias`` [N]."""

    weight: Tensor
    bias: Tensor | None


def linear_weights(module: nn.Module) -> list[LinearWeights]:
    """Those of all linears in a module, of fused ones as one. Weights of experts, [experts, N, K], are left out."""
    found = {}
    for part in module.modules():
        weight = getattr(part, "fused_weight", getattr(part, "weight", None))
        if isinstance(weight, Tensor) and weight.ndim == 2:
            bias = getattr(part, "fused_bias" if hasattr(part, "fused_weight") else "bias", None)
            found[weight.data_ptr()] = LinearWeights(weight, bias)
    return list(found.values())
