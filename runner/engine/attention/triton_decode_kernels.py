"""The Triton kernel of decode attention; `triton_decode` says how its programs share the work."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.attention.triton_decode_pieces import (
    attend,
    combine_parts,
    copy_numbers,
    hidden_tiles,
    is_last,
    merged,
    parts_of,
    store_answer,
    store_part,
)


# One kernel for all numbers of pieces: a batch that shrinks must not wait for a compiler.
@triton.jit(do_not_specialize=["num_splits", "num_prefix_splits"])
def decode_kernel(
    query_ptr,
    new_key_ptr,  # [R, KVH, D] of each row's last token
    new_value_ptr,
    key_ptr,
    value_ptr,
    out_ptr,  # [R, H, Dv] dense
    sinks_ptr,
    rows_ptr,
    lens_ptr,
    table_ptr,
    part_acc_ptr,  # num_splits parts a row and head
    part_stats_ptr,
    arrived_ptr,  # int32 [R * KVH], all zero between launches
    sharing_ptr,  # int32 [S]: tokens at a slot's beginning that the parts below are of
    prefix_acc_ptr,  # num_prefix_splits parts a row and head
    prefix_stats_ptr,
    num_splits,
    num_prefix_splits,
    scale,
    table_stride,
    query_row_stride,
    query_stride,
    new_key_stride,
    new_key_head_stride,
    new_value_stride,
    new_value_head_stride,
    key_block_stride,
    key_stride,
    key_head_stride,
    value_block_stride,
    value_stride,
    value_head_stride,
    APPEND: tl.constexpr,
    HAS_PREFIX: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    MIN_TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PREFIX_BLOCK_N: tl.constexpr,
):
    """Grid (KV_HEADS * num_splits, R). A row is cut by its own length; what is too short leaves programs idle.

    With APPEND the program that reads a row's last token writes it first: that saves a launch a layer.
    """
    head = tl.program_id(0) % KV_HEADS
    split = tl.program_id(0) // KV_HEADS
    row = tl.program_id(1)
    length = tl.load(lens_ptr + row)
    slot = tl.load(rows_ptr + row).to(tl.int64)
    hidden = hidden_tiles(length, WINDOW, BLOCK_N)
    if HAS_PREFIX:
        shared = tl.load(sharing_ptr + slot)
        hidden = shared // BLOCK_N
    per_split, num_parts = parts_of(tl.cdiv(length, BLOCK_N) - hidden, num_splits, MIN_TILES)
    if split < num_parts:
        first = (hidden + split * per_split) * BLOCK_N
        stop = tl.minimum(first + per_split * BLOCK_N, length)
        if APPEND and stop == length:
            at = length - 1
            block = tl.load(table_ptr + slot * table_stride + at // BLOCK_SIZE).to(tl.int64)
            key_place = block * key_block_stride + (at % BLOCK_SIZE) * key_stride + head * key_head_stride
            value_place = block * value_block_stride + (at % BLOCK_SIZE) * value_stride + head * value_head_stride
            new_key = row * new_key_stride + head * new_key_head_stride
            new_value = row * new_value_stride + head * new_value_head_stride
            copy_numbers(new_key_ptr + new_key, key_ptr + key_place, HEAD_DIM, BLOCK_D)
            copy_numbers(new_value_ptr + new_value, value_ptr + value_place, VALUE_DIM, BLOCK_V)
            tl.debug_barrier()  # all threads of the program read what some of them have written
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
            first_part = item * num_splits
            store_part(
                part_acc_ptr, part_stats_ptr, first_part + split, peak, total, acc, GROUP, VALUE_DIM, BLOCK_G, BLOCK_V
            )
            answered = is_last(arrived_ptr + item, num_parts)
            if answered:
                peak, total, acc = combine_parts(
                    part_acc_ptr,
                    part_stats_ptr,
                    first_part,
                    num_parts,
                    GROUP,
                    VALUE_DIM,
                    BLOCK_G,
                    BLOCK_V,
                )
        if answered:
            if HAS_PREFIX:
                _, num_shared = parts_of(shared // PREFIX_BLOCK_N, num_prefix_splits, 1)
                other_peak, other_total, other_acc = combine_parts(
                    prefix_acc_ptr,
                    prefix_stats_ptr,
                    item * num_prefix_splits,
                    num_shared,
                    GROUP,
                    VALUE_DIM,
                    BLOCK_G,
                    BLOCK_V,
                )
                peak, total, acc = merged(peak, total, acc, other_peak, other_total, other_acc)
            answer_ptr = out_ptr + item * (GROUP * VALUE_DIM)
            store_answer(
                answer_ptr, sinks_ptr + head * GROUP, peak, total, acc, GROUP, VALUE_DIM, HAS_SINKS, BLOCK_G, BLOCK_V
            )
