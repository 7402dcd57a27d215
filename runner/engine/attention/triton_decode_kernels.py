# mypy: disallow-untyped-defs=False
"""The Triton kernels of decode attention; `triton_decode` says how they share the work."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_decode_pieces import (
    attend,
    combine_parts,
    hidden_tiles,
    is_last,
    store_answer,
    store_part,
)


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
    tiles = tl.cdiv(length, BLOCK_N) - hidden_tiles(length, WINDOW, BLOCK_N)
    ends = tl.cumsum(tiles, 0)
    if tl.program_id(0) == 0:
        tl.store(row_tiles_ptr + row, ends - tiles, mask=row < num_rows)
        tl.store(row_tiles_ptr + num_rows, tl.sum(tiles, 0))
    per_run = tl.cdiv(tl.sum(tiles, 0) * KV_HEADS, num_runs)
    run = tl.program_id(0) * BLOCK_RUNS + tl.arange(0, BLOCK_RUNS)
    passed = (ends * KV_HEADS)[None, :] <= (run * per_run)[:, None]
    tl.store(run_rows_ptr + run, tl.sum(passed.to(tl.int32), 1), mask=run < num_runs)


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
        first = (hidden_tiles(length, WINDOW, BLOCK_N) + tile - head_start) * BLOCK_N
        peak, total, acc = attend(
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
            store_part(part_acc_ptr, part_stats_ptr, part, peak, total, acc, GROUP, VALUE_DIM, BLOCK_G, BLOCK_V)
            first_run = head_start // per_run
            num_parts = (head_start + tiles - 1) // per_run - first_run + 1
            answered = is_last(arrived_ptr + row * KV_HEADS + head, num_parts)
            if answered:
                first_part = 2 * first_run + (head_start != first_run * per_run).to(tl.int32)
                peak, total, acc = combine_parts(
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
            store_answer(
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
    hidden = hidden_tiles(length, WINDOW, BLOCK_N)
    tiles = tl.cdiv(length, BLOCK_N) - hidden
    per_split = tl.maximum(tl.cdiv(tiles, SPLITS), MIN_TILES)
    num_parts = tl.cdiv(tiles, per_split)
    if split < num_parts:
        slot = tl.load(rows_ptr + row).to(tl.int64)
        first = (hidden + split * per_split) * BLOCK_N
        stop = tl.minimum(first + per_split * BLOCK_N, length)
        peak, total, acc = attend(
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
            store_part(
                part_acc_ptr, part_stats_ptr, first_part + split, peak, total, acc, GROUP, VALUE_DIM, BLOCK_G, BLOCK_V
            )
            answered = is_last(arrived_ptr + item, num_parts)
            if answered:
                peak, total, acc = combine_parts(
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
            store_answer(
                answer_ptr, sinks_ptr + head * GROUP, peak, total, acc, GROUP, VALUE_DIM, HAS_SINKS, BLOCK_G, BLOCK_V
            )
