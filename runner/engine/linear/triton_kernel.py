"""The Triton kernel of a linear layer for few rows; `wide` says when it is used."""

from __future__ import annotations

import triton
import triton.language as tl


# One kernel for all numbers of rows that share a BLOCK_M: a batch that shrinks must not wait for a compiler.
@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,  # [M, N] dense
    rows,
    out_features,
    in_features,
    x_stride,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Grid (tiles,): each program multiplies BLOCK_N rows of the weight with all rows of the input.

    The weight is the left side of the product, because tensor cores take 64 rows there but only 8 on the right,
    where the few rows of the input lie.
    """
    first_row = tl.program_id(0) * BLOCK_N
    m = tl.arange(0, BLOCK_M)
    n = first_row + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_place = x_ptr + m[:, None] * x_stride + k[None, :]
    weight_place = weight_ptr + n.to(tl.int64)[:, None] * weight_stride + k[None, :]
    x_mask = (m < rows)[:, None]
    weight_mask = (n < out_features)[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for at in tl.range(0, in_features, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_place + at, mask=x_mask, other=0.0)
            weight = tl.load(weight_place + at, mask=weight_mask, other=0.0, eviction_policy="evict_first")
        else:
            used = (at + k < in_features)[None, :]
            x = tl.load(x_place + at, mask=x_mask & used, other=0.0)
            weight = tl.load(weight_place + at, mask=weight_mask & used, other=0.0, eviction_policy="evict_first")
        acc = tl.dot(weight, tl.trans(x), acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + n, mask=n < out_features, other=0.0).to(tl.float32)[:, None]
    out_place = out_ptr + m[None, :] * out_features + n[:, None]
    tl.store(out_place, acc.to(out_ptr.dtype.element_ty), mask=weight_mask & (m < rows)[None, :])
