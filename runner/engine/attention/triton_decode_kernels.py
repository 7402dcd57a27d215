# mypy: disallow-untyped-defs=False
"""The Triton kernels of decode attention; `triton_decode` says how they share the work.

A *tile* is BLOCK_N consecutive tokens of one (row, key/value head), aligned in the row; all query heads of the
group read it together. A *part* is the result over some, not all, of a head's tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_softmax import accumulate, capped, load_rows, normalised


@triton.jit
def _hidden_tiles(length, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles at a row's start that lie wholly before its window."""
    if WINDOW > 0:
        return tl.maximum(length - WINDOW, 0) // BLOCK_N
    return length * 0


@triton.jit(do_not_specialize=["num_rows", "num_runs"])
def plan_kernel(
    lens_ptr,  # int32 [R]
    row_tiles_ptr,  # int32 [R + 1]: out, tiles of one head in all rows before each row
    run_rows_ptr,  # int32 [num_runs]: out, the row in which each run starts
    num_rows,
    num_runs,
    KV_HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_RUNS: tl.constexpr,
):
    """Every program sums all rows' tiles and places BLOCK_RUNS of the runs."""
    row = tl.arange(0, BLOCK_R)
    length = tl.load(lens_ptr + row, mask=row < num_rows, other=0)
    tiles = tl.cdiv(length, BLOCK_N) - _hidden_tiles(length, WINDOW, BLOCK_N)
    ends = tl.cumsum(tiles, 0)
    if tl.program_id(0) == 0:
        tl.store(row_tiles_ptr + row, ends - tiles, mask=row < num_rows)
        tl.store(row_tiles_ptr + num_rows, tl.sum(tiles, 0))
    per_run = tl.cdiv(tl.sum(tiles, 0) * KV_HEADS, num_runs)
    run = tl.program_id(0) * BLOCK_RUNS + tl.arange(0, BLOCK_RUNS)
    passed = (ends * KV_HEADS)[None, :] <= (run * per_run)[:, None]
    tl.store(run_rows_ptr + run, tl.sum(passed.to(tl.int32), 1), mask=run < num_runs)


@triton.jit
def _attend(
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
def _store_answer(
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
def _store_part(
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
def _combine_parts(
    part_acc_ptr,
    part_stats_ptr,
    first_part,
    second_part,
    part_step,
    num_parts,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Peak, total and acc over part ``first_part`` and then ``second_part`` and every ``part_step`` after it."""
    g = tl.arange(0, BLOCK_G)
    v = tl.arange(0, BLOCK_V)
    in_group = g < GROUP
    acc_mask = in_group[:, None] & (v < VALUE_DIM)[None, :]
    peak = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc = tl.zeros([BLOCK_G, BLOCK_V], tl.float32)
    for index in tl.range(0, num_parts):
        part = tl.where(index == 0, first_part, second_part + (index - 1) * part_step).to(tl.int64)
        # Written by other programs: read them where all see them, not in this multiprocessor's cache.
        stats = part_stats_ptr + part * (2 * GROUP) + g
        part_peak = tl.load(stats, mask=in_group, other=0.0, cache_modifier=".cg")
        part_total = tl.load(stats + GROUP, mask=in_group, other=1.0, cache_modifier=".cg")
        place = part * (GROUP * VALUE_DIM) + g[:, None] * VALUE_DIM + v[None, :]
        part_acc = tl.load(part_acc_ptr + place, mask=acc_mask, other=0.0, cache_modifier=".cg")
        new_peak = tl.maximum(peak, part_peak)
        decay, part_decay = tl.exp2(peak - new_peak), tl.exp2(part_peak - new_peak)
        total = total * decay + part_total * part_decay
        acc = acc * decay[:, None] + part_acc * part_decay[:, None]
        peak = new_peak
    return peak, total, acc


@triton.jit
def _is_last(arrived_ptr, num_parts):
    """Counts this program in; true for the last one of ``num_parts``, which also clears the count."""
    tl.debug_barrier()  # every thread's part is stored before one thread announces it
    arrived = tl.atomic_add(arrived_ptr, 1, sem="acq_rel", scope="gpu")
    last = arrived == num_parts - 1
    if last:
        tl.store(arrived_ptr, 0)
    return last


@triton.jit(do_not_specialize=["num_rows"])
def runs_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,  # [R, H, Dv] dense
    sinks_ptr,
    rows_ptr,
    lens_ptr,
    table_ptr,
    row_tiles_ptr,
    run_rows_ptr,
    part_acc_ptr,  # two parts a run: one that begins with the run, one that begins in it
    part_stats_ptr,
    arrived_ptr,  # int32 [R * KVH], all zero between launches
    num_rows,
    scale,
    table_stride,
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
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One program a run: an equal share of all tiles, in the order (row, head, tile)."""
    run = tl.program_id(0)
    num_tiles = tl.load(row_tiles_ptr + num_rows) * KV_HEADS
    per_run = tl.cdiv(num_tiles, tl.num_programs(0))
    run_start = run * per_run
    run_stop = tl.minimum(run_start + per_run, num_tiles)
    row = tl.load(run_rows_ptr + run)
    tile = run_start
    while tile < run_stop:
        row_start = tl.load(row_tiles_ptr + row)
        tiles = tl.load(row_tiles_ptr + row + 1) - row_start
        head = (tile - row_start * KV_HEADS) // tiles
        head_start = row_start * KV_HEADS + head * tiles
        count = tl.minimum(head_start + tiles, run_stop) - tile
        length = tl.load(lens_ptr + row)
        slot = tl.load(rows_ptr + row).to(tl.int64)
        first = (_hidden_tiles(length, WINDOW, BLOCK_N) + tile - head_start) * BLOCK_N
        peak, total, acc = _attend(
            query_ptr + row * query_row_stride + head * GROUP * query_stride,
            key_ptr + head * key_head_stride,
            value_ptr + head * value_head_stride,
            table_ptr + slot * table_stride,
            first,
            first + count * BLOCK_N,
            length,
            scale,
            query_stride,
            key_block_stride,
            key_stride,
            value_block_stride,
            value_stride,
            GROUP,
            HEAD_DIM,
            VALUE_DIM,
            BLOCK_SIZE,
            WINDOW,
            SOFT_CAP,
            PRECISION,
            BLOCK_N,
            BLOCK_G,
            BLOCK_D,
            BLOCK_V,
        )
        answered = count == tiles
        if not answered:
            part = 2 * run + (tile != run_start).to(tl.int32)
            _store_part(part_acc_ptr, part_stats_ptr, part, peak, total, acc, GROUP, VALUE_DIM, BLOCK_G, BLOCK_V)
            first_run = head_start // per_run
            num_parts = (head_start + tiles - 1) // per_run - first_run + 1
            answered = _is_last(arrived_ptr + row * KV_HEADS + head, num_parts)
            if answered:
                first_part = 2 * first_run + (head_start != first_run * per_run).to(tl.int32)
                peak, total, acc = _combine_parts(
                    part_acc_ptr,
                    part_stats_ptr,
                    first_part,
                    2 * (first_run + 1),
                    2,
                    num_parts,
                    GROUP,
                    VALUE_DIM,
                    BLOCK_G,
                    BLOCK_V,
                )
        if answered:
            answer_ptr = out_ptr + (row * KV_HEADS + head) * (GROUP * VALUE_DIM)
            _store_answer(
                answer_ptr, sinks_ptr + head * GROUP, peak, total, acc, GROUP, VALUE_DIM, HAS_SINKS, BLOCK_G, BLOCK_V
            )
        tile += count
        row += (tile == (row_start + tiles) * KV_HEADS).to(tl.int32)


@triton.jit
def splits_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    sinks_ptr,
    rows_ptr,
    lens_ptr,
    table_ptr,
    part_acc_ptr,  # SPLITS parts a row and head
    part_stats_ptr,
    arrived_ptr,
    scale,
    table_stride,
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
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    SPLITS: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    """Grid (KV_HEADS * SPLITS, R): a row is cut by its own length alone, so the other rows never change its bits."""
    head = tl.program_id(0) % KV_HEADS
    split = tl.program_id(0) // KV_HEADS
    row = tl.program_id(1)
    length = tl.load(lens_ptr + row)
    hidden = _hidden_tiles(length, WINDOW, BLOCK_N)
    tiles = tl.cdiv(length, BLOCK_N) - hidden
    per_split = tl.maximum(tl.cdiv(tiles, SPLITS), MIN_TILES)
    num_parts = tl.cdiv(tiles, per_split)
    if split < num_parts:
        slot = tl.load(rows_ptr + row).to(tl.int64)
        first = (hidden + split * per_split) * BLOCK_N
        stop = tl.minimum(first + per_split * BLOCK_N, length)
        peak, total, acc = _attend(
            query_ptr + row * query_row_stride + head * GROUP * query_stride,
            key_ptr + head * key_head_stride,
            value_ptr + head * value_head_stride,
            table_ptr + slot * table_stride,
            first,
            stop,
            length,
            scale,
            query_stride,
            key_block_stride,
            key_stride,
            value_block_stride,
            value_stride,
            GROUP,
            HEAD_DIM,
            VALUE_DIM,
            BLOCK_SIZE,
            WINDOW,
            SOFT_CAP,
            PRECISION,
            BLOCK_N,
            BLOCK_G,
            BLOCK_D,
            BLOCK_V,
        )
        answered = num_parts == 1
        item = row * KV_HEADS + head
        if not answered:
            first_part = item * SPLITS
            _store_part(
                part_acc_ptr, part_stats_ptr, first_part + split, peak, total, acc, GROUP, VALUE_DIM, BLOCK_G, BLOCK_V
            )
            answered = _is_last(arrived_ptr + item, num_parts)
            if answered:
                peak, total, acc = _combine_parts(
                    part_acc_ptr,
                    part_stats_ptr,
                    first_part,
                    first_part + 1,
                    1,
                    num_parts,
                    GROUP,
                    VALUE_DIM,
                    BLOCK_G,
                    BLOCK_V,
                )
        if answered:
            answer_ptr = out_ptr + item * (GROUP * VALUE_DIM)
            _store_answer(
                answer_ptr, sinks_ptr + head * GROUP, peak, total, acc, GROUP, VALUE_DIM, HAS_SINKS, BLOCK_G, BLOCK_V
            )
