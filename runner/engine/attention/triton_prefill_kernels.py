"""The Triton kernel of prefill attention: flash attention over ragged sequences, paged or packed."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_softmax import accumulate, capped, load_rows, normalised


@triton.jit
def _attend_range(
    query,  # [M, D]
    peak,
    total,
    acc,
    position,  # [M]: of each query in its sequence
    start,
    stop,
    length,
    scale,
    key_ptr,  # of this head; without PAGED, of the sequence's first token
    value_ptr,
    table_ptr,
    key_block_stride,
    key_stride,
    value_block_stride,
    value_stride,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
    PAGED: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Goes on with the online softmax over tokens [start, stop); without MASKED every query sees all of them."""
    n = start + tl.arange(0, BLOCK_N)
    if PAGED:
        block = tl.load(table_ptr + n // BLOCK_SIZE, mask=n < length, other=0)
    for at in tl.range(start, stop, BLOCK_N):
        n = at + tl.arange(0, BLOCK_N)
        if PAGED:
            # The next tile's blocks are looked up one tile ahead: no load below waits for another.
            following = tl.load(table_ptr + (n + BLOCK_N) // BLOCK_SIZE, mask=n + BLOCK_N < length, other=0)
            key_rows = block.to(tl.int64) * key_block_stride + (n % BLOCK_SIZE) * key_stride
            value_rows = block.to(tl.int64) * value_block_stride + (n % BLOCK_SIZE) * value_stride
            block = following
        else:
            key_rows = n.to(tl.int64) * key_stride
            value_rows = n.to(tl.int64) * value_stride
        key = load_rows(key_ptr, key_rows, n < length, HEAD_DIM, BLOCK_D)
        value = load_rows(value_ptr, value_rows, n < length, VALUE_DIM, BLOCK_V)
        scores = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), scale, SOFT_CAP)
        if MASKED:
            visible = n[None, :] <= position[:, None]
            if WINDOW > 0:
                visible = visible & (n[None, :] > position[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        peak, total, acc = accumulate(scores, value, peak, total, acc, PRECISION)
    return peak, total, acc


@triton.jit
def prefill_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,  # [N, H, Dv] dense
    sinks_ptr,
    rows_ptr,
    starts_ptr,
    lens_ptr,
    table_ptr,
    scale,
    table_stride,
    query_token_stride,
    query_head_stride,
    key_block_stride,
    key_stride,
    key_head_stride,
    value_block_stride,
    value_stride,
    value_head_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    PAGED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Grid (tiles of the longest chunk, KVH, P). A tile's M rows are (token, head of the group), tokens first."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2)
    token_start = tl.load(starts_ptr + sequence)
    num_tokens = tl.load(starts_ptr + sequence + 1) - token_start
    # The last tile of a sequence has the most to read: it goes first.
    first_token = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    if first_token < num_tokens:
        length = tl.load(lens_ptr + sequence)
        slot = tl.load(rows_ptr + sequence).to(tl.int64)
        m = tl.arange(0, BLOCK_M)
        token = first_token + m // GROUP
        in_tile = (m < TOKENS * GROUP) & (token < num_tokens)
        # Rows outside take the first token's place: they must see something, or they would be NaN.
        token = tl.where(in_tile, token, first_token)
        head = kv_head * GROUP + m % GROUP
        d = tl.arange(0, BLOCK_D)
        v = tl.arange(0, BLOCK_V)
        query_rows = (token_start + token).to(tl.int64) * query_token_stride + head * query_head_stride
        query = tl.load(
            query_ptr + query_rows[:, None] + d[None, :], mask=in_tile[:, None] & (d < HEAD_DIM)[None, :], other=0.0
        )
        before = length - num_tokens
        position = before + token
        key_at = key_ptr + kv_head * key_head_stride
        value_at = value_ptr + kv_head * value_head_stride
        if not PAGED:
            key_at += token_start.to(tl.int64) * key_stride
            value_at += token_start.to(tl.int64) * value_stride
        table_at = table_ptr + slot * table_stride
        stop = before + tl.minimum(first_token + TOKENS, num_tokens)
        start = 0
        if WINDOW > 0:
            start = tl.maximum(before + first_token + 1 - WINDOW, 0) // BLOCK_N * BLOCK_N
        # Up to here every query of the tile sees every token; a window's lower edge is masked throughout.
        whole = (before + first_token + 1) // BLOCK_N * BLOCK_N
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
        if WINDOW == 0:
            peak, total, acc = _attend_range(
                query,
                peak,
                total,
                acc,
                position,
                0,
                whole,
                length,
                scale,
                key_at,
                value_at,
                table_at,
                key_block_stride,
                key_stride,
                value_block_stride,
                value_stride,
                HEAD_DIM,
                VALUE_DIM,
                BLOCK_SIZE,
                WINDOW,
                SOFT_CAP,
                PRECISION,
                PAGED,
                False,
                BLOCK_N,
                BLOCK_D,
                BLOCK_V,
            )
            start = whole
        peak, total, acc = _attend_range(
            query,
            peak,
            total,
            acc,
            position,
            start,
            stop,
            length,
            scale,
            key_at,
            value_at,
            table_at,
            key_block_stride,
            key_stride,
            value_block_stride,
            value_stride,
            HEAD_DIM,
            VALUE_DIM,
            BLOCK_SIZE,
            WINDOW,
            SOFT_CAP,
            PRECISION,
            PAGED,
            True,
            BLOCK_N,
            BLOCK_D,
            BLOCK_V,
        )
        sink = tl.zeros([BLOCK_M], tl.float32)
        if HAS_SINKS:
            sink = tl.load(sinks_ptr + head)
        answer = normalised(peak, total, acc, sink, HAS_SINKS)
        out_rows = (token_start + token).to(tl.int64) * (tl.num_programs(1) * GROUP) + head
        tl.store(
            out_ptr + out_rows[:, None] * VALUE_DIM + v[None, :],
            answer.to(out_ptr.dtype.element_ty),
            mask=in_tile[:, None] & (v < VALUE_DIM)[None, :],
        )
