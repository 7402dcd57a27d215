"""The KV append in Triton: keys and values of all tokens and heads in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from runner.engine.attention.metadata import KVCache
from runner.engine.attention.triton_sizes import ceil_div, power_of_two

_ELEMENTS = 4096  # of keys that one program moves: a few tokens of most models


@triton.jit
def _copy(
    source_ptr,
    cache_ptr,
    token,
    place,
    live,
    source_stride,
    source_head_stride,
    block_stride,
    stride,
    head_stride,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rows of [token, head] to their places, [BLOCK_T * BLOCK_H, BLOCK_D]; ``token``, ``place`` are per row."""
    lane = tl.arange(0, token.shape[0])
    head = lane % BLOCK_H
    d = tl.arange(0, BLOCK_D)
    mask = (live & (head < HEADS))[:, None] & (d < DIM)[None, :]
    source = token.to(tl.int64) * source_stride + head * source_head_stride
    data = tl.load(source_ptr + source[:, None] + d[None, :], mask=mask)
    target = (place // BLOCK_SIZE) * block_stride + (place % BLOCK_SIZE) * stride + head * head_stride
    tl.store(cache_ptr + target[:, None] + d[None, :], data, mask=mask)


@triton.jit(do_not_specialize=["num_tokens"])
def _write_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_mapping_ptr,
    num_tokens,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    key_cache_block_stride,
    key_cache_stride,
    key_cache_head_stride,
    value_cache_block_stride,
    value_cache_stride,
    value_cache_head_stride,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T * BLOCK_H) // BLOCK_H
    live = token < num_tokens
    place = tl.load(slot_mapping_ptr + token, mask=live, other=0)
    _copy(
        key_ptr,
        key_cache_ptr,
        token,
        place,
        live,
        key_stride,
        key_head_stride,
        key_cache_block_stride,
        key_cache_stride,
        key_cache_head_stride,
        BLOCK_SIZE,
        HEADS,
        HEAD_DIM,
        BLOCK_H,
        BLOCK_D,
    )
    _copy(
        value_ptr,
        value_cache_ptr,
        token,
        place,
        live,
        value_stride,
        value_head_stride,
        value_cache_block_stride,
        value_cache_stride,
        value_cache_head_stride,
        BLOCK_SIZE,
        HEADS,
        VALUE_DIM,
        BLOCK_H,
        BLOCK_V,
    )


def write_cache(key: torch.Tensor, value: torch.Tensor, cache: KVCache, slot_mapping: torch.Tensor) -> None:
    """Stores key [T, KVH, D] and value [T, KVH, Dv] at ``slot_mapping`` [T]; their last dimension is dense."""
    num_tokens, heads, head_dim = key.shape
    block_h, block_d = power_of_two(heads), power_of_two(head_dim)
    block_t = max(1, _ELEMENTS // (block_h * block_d)) if num_tokens > 1024 else 1
    _write_kernel[(ceil_div(num_tokens, block_t),)](
        key,
        value,
        cache.key,
        cache.value,
        slot_mapping,
        num_tokens,
        *key.stride()[:2],
        *value.stride()[:2],
        *cache.key.stride()[:3],
        *cache.value.stride()[:3],
        BLOCK_SIZE=cache.block_size,
        HEADS=heads,
        HEAD_DIM=head_dim,
        VALUE_DIM=value.shape[2],
        BLOCK_T=block_t,
        BLOCK_H=block_h,
        BLOCK_D=block_d,
        BLOCK_V=power_of_two(value.shape[2]),
    )
