"""What the decode kernels are made of: a run of tiles attended to, and parts stored and combined.

A *tile* is BLOCK_N consecutive tokens of one (row, key/value head), aligned in the row; all query heads of the
group read it together. A *part* is the result over some, not all, of a head's tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_softmax import accumulate, capped, load_rows, normalised

_STAGED_NUMBERS = tl.constexpr(4096)  # of a part: larger ones would take a multiprocessor's memory for themselves


@triton.jit
def hidden_tiles(length, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles at a row's start that lie wholly before its window."""
    if WINDOW > 0:
        return tl.maximum(length - WINDOW, 0) // BLOCK_N
    return length * 0


@triton.jit
def attend(
    query_ptr,  # of this row and group
    key_ptr,  # of this head
    value_ptr,
    table_ptr,  # of this row's slot
    start,
    stop,
    length,
    scale,
    query_stride,
    key_block_stride,
    key_stride,
    value_block_stride,
    value_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """The group's online softmax over tokens [start, stop) of one head: peak, total [G] and acc [G, Dv]."""
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    query_mask = (g < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    query = tl.load(query_ptr + g[:, None] * query_stride + d[None, :], mask=query_mask, other=0.0)
    peak = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc = tl.zeros([BLOCK_G, BLOCK_V], tl.float32)
    n = start + tl.arange(0, BLOCK_N)
    block = tl.load(table_ptr + n // BLOCK_SIZE, mask=n < length, other=0)
    for at in tl.range(start, stop, BLOCK_N):
        n = at + tl.arange(0, BLOCK_N)
        used = n < length
        # The next tile's blocks are looked up one tile ahead: no load below waits for another.
        following = tl.load(table_ptr + (n + BLOCK_N) // BLOCK_SIZE, mask=n + BLOCK_N < length, other=0)
        key_rows = block.to(tl.int64) * key_block_stride + (n % BLOCK_SIZE) * key_stride
        value_rows = block.to(tl.int64) * value_block_stride + (n % BLOCK_SIZE) * value_stride
        # Places past the end may hold NaN: zeros there keep it out of the products.
        key = load_rows(key_ptr, key_rows, used, HEAD_DIM, BLOCK_D)
        value = load_rows(value_ptr, value_rows, used, VALUE_DIM, BLOCK_V)
        scores = capped(tl.dot(query, tl.trans(key), input_precision=PRECISION), scale, SOFT_CAP)
        visible = used
        if WINDOW > 0:
            visible = used & (n >= length - WINDOW)
        scores = tl.where(visible[None, :], scores, float("-inf"))
        peak, total, acc = accumulate(scores, value, peak, total, acc, PRECISION)
        block = following
    return peak, total, acc


@triton.jit
def parts_of(tiles, num_splits, MIN_TILES: tl.constexpr):
    """(tiles of a part, parts) when ``tiles`` are cut into ``num_splits`` at most."""
    per_split = tl.maximum(tl.cdiv(tiles, num_splits), MIN_TILES)
    return per_split, tl.cdiv(tiles, per_split)


@triton.jit
def copy_numbers(source_ptr, target_ptr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """COUNT consecutive numbers."""
    i = tl.arange(0, BLOCK)
    tl.store(target_ptr + i, tl.load(source_ptr + i, mask=i < COUNT), mask=i < COUNT)


@triton.jit
def store_answer(
    out_ptr,
    sinks_ptr,
    peak,
    total,
    acc,
    GROUP,
    VALUE_DIM,
    HAS_SINKS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    g = tl.arange(0, BLOCK_G)
    v = tl.arange(0, BLOCK_V)
    sink = tl.zeros([BLOCK_G], tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks_ptr + g, mask=g < GROUP, other=0.0)
    answer = normalised(peak, total, acc, sink, HAS_SINKS)
    mask = (g < GROUP)[:, None] & (v < VALUE_DIM)[None, :]
    tl.store(out_ptr + g[:, None] * VALUE_DIM + v[None, :], answer.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def store_part(
    part_acc_ptr,  # float32 [parts, G, Dv]
    part_stats_ptr,  # float32 [parts, 2, G]: peak, total
    part,
    peak,
    total,
    acc,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    g = tl.arange(0, BLOCK_G)
    v = tl.arange(0, BLOCK_V)
    in_group = g < GROUP
    part = part.to(tl.int64)
    stats = part_stats_ptr + part * (2 * GROUP) + g
    tl.store(stats, peak, mask=in_group)
    tl.store(stats + GROUP, total, mask=in_group)
    place = part * (GROUP * VALUE_DIM) + g[:, None] * VALUE_DIM + v[None, :]
    tl.store(part_acc_ptr + place, acc, mask=in_group[:, None] & (v < VALUE_DIM)[None, :])


@triton.jit
def combine_parts(
    part_acc_ptr,
    part_stats_ptr,
    first_part,
    num_parts,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Peak, total and acc over ``num_parts`` consecutive parts, in order."""
    g = tl.arange(0, BLOCK_G)
    v = tl.arange(0, BLOCK_V)
    in_group = g < GROUP
    acc_mask = in_group[:, None] & (v < VALUE_DIM)[None, :]
    peak = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc = tl.zeros([BLOCK_G, BLOCK_V], tl.float32)
    # Several parts are in flight at once: one after another, many would take longer than their tiles took.
    STAGES: tl.constexpr = 4 if BLOCK_G * BLOCK_V <= _STAGED_NUMBERS else 1
    for index in tl.range(0, num_parts, num_stages=STAGES):
        part = (first_part + index).to(tl.int64)
        # Written by other programs: read them where all see them, not in this multiprocessor's cache.
        stats = part_stats_ptr + part * (2 * GROUP) + g
        part_peak = tl.load(stats, mask=in_group, other=0.0, cache_modifier=".cg")
        part_total = tl.load(stats + GROUP, mask=in_group, other=1.0, cache_modifier=".cg")
        place = part * (GROUP * VALUE_DIM) + g[:, None] * VALUE_DIM + v[None, :]
        part_acc = tl.load(part_acc_ptr + place, mask=acc_mask, other=0.0, cache_modifier=".cg")
        peak, total, acc = merged(peak, total, acc, part_peak, part_total, part_acc)
    return peak, total, acc


@triton.jit
def merged(peak, total, acc, other_peak, other_total, other_acc):
    """Two softmaxes over different tokens as one; not both are empty."""
    new_peak = tl.maximum(peak, other_peak)
    decay, other_decay = tl.exp2(peak - new_peak), tl.exp2(other_peak - new_peak)
    total = total * decay + other_total * other_decay
    return new_peak, total, acc * decay[:, None] + other_acc * other_decay[:, None]


@triton.jit
def is_last(arrived_ptr, num_parts):
    """Counts this program in; true for the last one of ``num_parts``, which also clears the count."""
    tl.debug_barrier()  # every thread's part is stored before one thread announces it
    arrived = tl.atomic_add(arrived_ptr, 1, sem="acq_rel", scope="gpu")
    last = arrived == num_parts - 1
    if last:
        tl.store(arrived_ptr, 0)
    return last
