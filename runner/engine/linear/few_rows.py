"""A linear layer for few rows in Triton: reading the weight is the cost, so it is read once, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from runner.engine.attention.triton_sizes import ceil_div, dot_side
from runner.engine.linear.triton_kernel import linear_kernel

MAX_ROWS = 64  # more make the product, not the reading, the cost

# Found on an H100 among 21 shapes of tiles: 128 rows of the weight a program, 256 bytes of each at a time.
_BLOCK_N = 128
_ROW_BYTES = 256
_NUM_WARPS = 4
_NUM_STAGES = 3


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [M, K] times weight [N, K] transposed, plus bias [N] -> [M, N], for M of 1 to ``MAX_ROWS``.

    All of one floating type, and dense along K. Adds in float32; float32 itself is not rounded to TF32. A row's
    result does not depend on the other rows of its tile.
    """
    rows, in_features = x.shape
    out_features = weight.shape[0]
    assert 1 <= rows <= MAX_ROWS
    assert x.stride(1) == weight.stride(1) == 1
    out = torch.empty(rows, out_features, dtype=x.dtype, device=x.device)
    block_k = _ROW_BYTES // x.dtype.itemsize
    linear_kernel[(ceil_div(out_features, _BLOCK_N),)](
        x,
        weight,
        x if bias is None else bias,
        out,
        rows,
        out_features,
        in_features,
        x.stride(0),
        weight.stride(0),
        HAS_BIAS=bias is not None,
        EVEN_K=in_features % block_k == 0,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        BLOCK_M=dot_side(rows),
        BLOCK_N=_BLOCK_N,
        BLOCK_K=block_k,
        num_warps=_NUM_WARPS,
        num_stages=_NUM_STAGES,
    )
    return out
