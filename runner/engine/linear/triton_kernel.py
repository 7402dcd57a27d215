"""The Triton kernel of a linear layer for few rows; `small` says how its programs share the work."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_decode_pieces import is_last

_STAGED_NUMBERS = tl.constexpr(4096)  # of a part: more of larger ones in flight would crowd out other programs


# One kernel for all numbers of rows that share a BLOCK_M: a batch that shrinks must not wait for a compiler.
@triton.jit(do_not_specialize=["rows", "steps_a_part", "num_parts"])
def linear_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,  # [M, N] dense
    parts_ptr,  # float32 [tiles, num_parts, BLOCK_N, BLOCK_M]
    arrived_ptr,  # int32 [tiles], all zero between launches
    rows,
    out_features,
    in_features,
    x_stride,
    weight_stride,
    steps_a_part,
    num_parts,
    HAS_BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Grid (tiles * num_parts,): a tile's parts are neighbours, so that they run at the same time."""
    tile = tl.program_id(0) // num_parts
    part = tl.program_id(0) % num_parts
    first = part * steps_a_part * BLOCK_K
    stop = tl.minimum(first + steps_a_part * BLOCK_K, in_features)
    first_row = tile * BLOCK_N
    acc = _multiply(
        x_ptr,
        weight_ptr + first_row.to(tl.int64) * weight_stride,
        rows,
        out_features - first_row,
        x_stride,
        weight_stride,
        first,
        stop,
        EVEN_K,
        PRECISION,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    answered = num_parts == 1
    if SPLIT:
        tile_ptr = parts_ptr + tile.to(tl.int64) * num_parts * (BLOCK_N * BLOCK_M)
        place = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tl.store(tile_ptr + part * (BLOCK_N * BLOCK_M) + place, acc)
        answered = is_last(arrived_ptr + tile, num_parts)
        if answered:
            acc = _add_parts(tile_ptr, num_parts, BLOCK_M, BLOCK_N)
    if answered:
        n = first_row + tl.arange(0, BLOCK_N)
        m = tl.arange(0, BLOCK_M)
        if HAS_BIAS:
            acc += tl.load(bias_ptr + n, mask=n < out_features, other=0.0).to(tl.float32)[:, None]
        mask = (n < out_features)[:, None] & (m < rows)[None, :]
        tl.store(out_ptr + m[None, :] * out_features + n[:, None], acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _multiply(
    x_ptr,
    weight_ptr,  # of this tile
    rows,
    weight_rows,  # from this tile's first to the last of all
    x_stride,
    weight_stride,
    first,
    stop,
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Weight tile times input over features [first, stop): float32 [BLOCK_N, BLOCK_M]."""
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_place = m[:, None] * x_stride + k[None, :]
    weight_place = n[:, None] * weight_stride + k[None, :]
    x_mask = (m < rows)[:, None]
    weight_mask = (n < weight_rows)[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for at in tl.range(first, stop, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptr + at + x_place, mask=x_mask, other=0.0)
            weight = tl.load(weight_ptr + at + weight_place, mask=weight_mask, other=0.0, eviction_policy="evict_first")
        else:
            used = (at + k < stop)[None, :]
            x = tl.load(x_ptr + at + x_place, mask=x_mask & used, other=0.0)
            weight = tl.load(
                weight_ptr + at + weight_place, mask=weight_mask & used, other=0.0, eviction_policy="evict_first"
            )
        acc = tl.dot(weight, tl.trans(x), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _add_parts(tile_ptr, num_parts, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sum of a tile's parts, from the first to the last whoever comes last."""
    place = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    STAGES: tl.constexpr = 4 if BLOCK_N * BLOCK_M <= _STAGED_NUMBERS else 3
    for index in tl.range(0, num_parts, num_stages=STAGES):
        # Written by other programs: read where all see it, not in this multiprocessor's cache.
        acc += tl.load(tile_ptr + index * (BLOCK_N * BLOCK_M) + place, cache_modifier=".cg")
    return acc
