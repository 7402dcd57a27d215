"""A linear layer for few rows in Triton: reading the weight is the cost, so it is read once and nothing waits for it.

A program multiplies one *tile*, block_n rows of the weight, with all rows of the input. Where the tiles are too few
to fill the card, the input features are cut into *parts*, and a tile's program that finishes last adds the parts up,
in order: no second launch, and the same bits every time. The weight is the left side of the product, because tensor
cores take 64 rows there but only 8 on the right, where the few rows of the input lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.engine.attention.triton_sizes import ceil_div, dot_side
from runner.engine.linear.triton_kernel import linear_kernel

MAX_ROWS = 64  # more make the product, not the reading, the cost


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """How the work is cut."""

    block_n: int = 64  # weight rows of a tile: the input is read again for each tile
    row_bytes: int = 256  # of each weight row in one step; 128 is a cache line
    num_warps: int = 4
    num_stages: int = 4  # steps in flight, the one that is multiplied included
    programs: int = 264  # parts are made until there are about so many; an H100 has 132 multiprocessors

    def block_k(self, dtype: torch.dtype) -> int:
        return self.row_bytes // dtype.itemsize

    def steps_of(self, out_features: int, in_features: int, dtype: torch.dtype) -> tuple[int, int]:
        """Steps of a part, and the number of parts; no part is empty."""
        steps = ceil_div(in_features, self.block_k(dtype))
        wanted = max(1, min(self.programs // ceil_div(out_features, self.block_n), steps // self.num_stages))
        steps_a_part = ceil_div(steps, wanted)
        return steps_a_part, ceil_div(steps, steps_a_part)


class LinearSpace:
    """Work space that launches share which run one after another, on one stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parts = torch.empty(0, dtype=torch.float32, device=device)
        self.arrived = torch.zeros(0, dtype=torch.int32, device=device)

    def reserve(self, shapes: list[tuple[int, int]], config: LinearConfig, dtype: torch.dtype, max_rows: int) -> None:
        """Makes room for weights of these shapes [out_features, in_features]; not once a graph has been captured."""
        for out_features, in_features in shapes:
            tiles = ceil_div(out_features, config.block_n)
            _, num_parts = config.steps_of(out_features, in_features, dtype)
            if num_parts > 1:
                numbers = tiles * num_parts * config.block_n * dot_side(max_rows)
                if numbers > len(self.parts):
                    self.parts = torch.empty(numbers, dtype=torch.float32, device=self._device)
                if tiles > len(self.arrived):
                    self.arrived = torch.zeros(tiles, dtype=torch.int32, device=self._device)


def small_linear(x: Tensor, weight: Tensor, bias: Tensor | None, config: LinearConfig, space: LinearSpace) -> Tensor:
    """x [M, K] times weight [N, K] transposed, plus bias [N] -> [M, N], for M of 1 to ``MAX_ROWS``.

    All of one floating type, and dense along K. Adds in float32; float32 itself is not rounded to TF32.
    """
    rows, in_features = x.shape
    out_features = weight.shape[0]
    assert 1 <= rows <= MAX_ROWS and x.stride(1) == weight.stride(1) == 1
    steps_a_part, num_parts = config.steps_of(out_features, in_features, x.dtype)
    tiles = ceil_div(out_features, config.block_n)
    block_m, block_k = dot_side(rows), config.block_k(x.dtype)
    if num_parts > 1:
        needed = tiles * num_parts * config.block_n * block_m
        assert tiles <= len(space.arrived) and needed <= len(space.parts), "the space was not reserved for this weight"
    out = torch.empty(rows, out_features, dtype=x.dtype, device=x.device)
    linear_kernel[(tiles * num_parts,)](
        x,
        weight,
        x if bias is None else bias,
        out,
        space.parts,
        space.arrived,
        rows,
        out_features,
        in_features,
        x.stride(0),
        weight.stride(0),
        steps_a_part,
        num_parts,
        HAS_BIAS=bias is not None,
        SPLIT=num_parts > 1,
        EVEN_K=in_features % block_k == 0,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        BLOCK_M=block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=block_k,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
