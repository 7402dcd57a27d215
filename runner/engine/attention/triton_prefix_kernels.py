"""The Triton kernel that reads a shared beginning once for many decode rows; `triton_prefix` says how."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_decode_pieces import parts_of
from runner.engine.attention.triton_softmax import accumulate, capped, load_rows


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def prefix_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    rows_ptr,
    sharing_ptr,
    blocks_ptr,
    num_tokens_ptr,
    part_acc_ptr,  # num_splits parts a row and head
    part_stats_ptr,
    num_rows,
    num_splits,
    scale,
    query_row_stride,
    query_stride,
    key_block_stride,
    key_stride,
    key_head_stride,
    value_block_stride,
    value_stride,
    value_head_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Grid (KV_HEADS * num_splits, tiles of ROWS rows). Tiles without a row that shares end at once."""
    head = tl.program_id(0) % KV_HEADS
    split = tl.program_id(0) // KV_HEADS
    length = tl.load(num_tokens_ptr)
    m = tl.arange(0, ROWS * BLOCK_G)
    row, g = tl.program_id(1) * ROWS + m // BLOCK_G, m % BLOCK_G
    slot = tl.load(rows_ptr + row, mask=row < num_rows, other=0)
    shared = tl.load(sharing_ptr + slot, mask=row < num_rows, other=0)
    live = (shared > 0) & (g < GROUP)
    per_split, num_parts = parts_of(length // BLOCK_N, num_splits, 1)
    if (tl.max(live.to(tl.int32), 0) > 0) & (split < num_parts):
        d = tl.arange(0, BLOCK_D)
        place = row * query_row_stride + (head * GROUP + g) * query_stride
        query = tl.load(
            query_ptr + place[:, None] + d[None, :], mask=live[:, None] & (d < HEAD_DIM)[None, :], other=0.0
        )
        peak = tl.full([ROWS * BLOCK_G], float("-inf"), tl.float32)
        total = tl.zeros([ROWS * BLOCK_G], tl.float32)
        acc = tl.zeros([ROWS * BLOCK_G, BLOCK_V], tl.float32)
        first = split * per_split * BLOCK_N
        stop = tl.minimum(first + per_split * BLOCK_N, length)
        n = first + tl.arange(0, BLOCK_N)
        block = tl.load(blocks_ptr + n // BLOCK_SIZE)
        for at in tl.range(first, stop, BLOCK_N):
            n = at + tl.arange(0, BLOCK_N)
            following = tl.load(blocks_ptr + (n + BLOCK_N) // BLOCK_SIZE, mask=n + BLOCK_N < length, other=0)
            key_rows = block.to(tl.int64) * key_block_stride + (n % BLOCK_SIZE) * key_stride
            value_rows = block.to(tl.int64) * value_block_stride + (n % BLOCK_SIZE) * value_stride
            key = load_rows(key_ptr + head * key_head_stride, key_rows, n < length, HEAD_DIM, BLOCK_D)
            value = load_rows(value_ptr + head * value_head_stride, value_rows, n < length, VALUE_DIM, BLOCK_V)
            scores = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), scale, SOFT_CAP)
            peak, total, acc = accumulate(scores, value, peak, total, acc, PRECISION)
            block = following
        v = tl.arange(0, BLOCK_V)
        part = ((row * KV_HEADS + head) * num_splits + split).to(tl.int64)
        stats = part_stats_ptr + part * (2 * GROUP) + g
        tl.store(stats, peak, mask=live)
        tl.store(stats + GROUP, total, mask=live)
        answer = part * (GROUP * VALUE_DIM) + g * VALUE_DIM
        tl.store(part_acc_ptr + answer[:, None] + v[None, :], acc, mask=live[:, None] & (v < VALUE_DIM)[None, :])
