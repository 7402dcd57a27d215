"""The sampler's kernels. Rows share a grid of fixed size; what a row asks for is decided on the device.

Those of `triton_filters` find what the filters keep, `choose_kernel` reads the logits once and takes the best score
of each piece of the vocabulary, `finish_kernel` takes the best piece. Logits stay in their own type in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.sampler import base, edits
from runner.engine.sampler.triton_rows import (
    EDIT_ROW,
    MAX_STOP_IDS,
    STOP_IDS,
    TEMPERATURE,
    WORDS,
    hash_bits,
    load_float,
    load_logits,
    negative_gumbel,
    row_keys,
)

_STOP = tl.constexpr(int(base.Status.STOP))
_INVALID = tl.constexpr(int(base.Status.INVALID))
_ONE_OUTPUT = tl.constexpr(edits.ONE_OUTPUT)
_NO_TOKEN = tl.constexpr(2**31 - 1)
_INF = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=["tiles_per_piece"])  # it hangs on the number of rows
def choose_kernel(
    logits_ptr,  # [B, V], rows `logits_stride` apart
    rows_ptr,  # int32 [B]
    positions_ptr,  # int32 [B]
    words_ptr,  # int32 [S, WORDS]
    counts_ptr,  # int32 [P, V]
    bias_ptr,  # float32 [P, V]
    floors_ptr,  # float32 [B]
    best_ptr,  # out: float32 [B, pieces], NaN for a broken piece
    tokens_ptr,  # out: int32 [B, pieces]
    logits_stride,
    tiles_per_piece,
    VOCAB: tl.constexpr,
    GREEDY: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE: tl.constexpr,
):
    index = tl.program_id(0)
    piece = tl.program_id(1)
    params_ptr = words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS
    position = tl.load(positions_ptr + index)
    row_ptr = logits_ptr + index.to(tl.int64) * logits_stride
    noisy = False
    if not GREEDY:
        temperature = load_float(params_ptr, TEMPERATURE)
        noisy = temperature > 0
        inverse = tl.where(noisy, tl.div_rn(1.0, temperature), 1.0)
        floor = tl.load(floors_ptr + index)
        key_0, key_1 = row_keys(params_ptr, position)
    best = tl.full([TILE], float("-inf"), tl.float32)
    tokens = tl.full([TILE], _NO_TOKEN, tl.int32)
    broken = tl.zeros([TILE], tl.int1)
    start = piece * tiles_per_piece * TILE
    stop = tl.minimum(start + tiles_per_piece * TILE, VOCAB)
    while start < stop:
        ids = start + tl.arange(0, TILE)
        x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
        broken |= (x != x) | (x == _INF)
        if not GREEDY:  # noqa: SIM102 - a constant of the compilation, then a value of the row
            if noisy:
                score = x * inverse - negative_gumbel(hash_bits(ids, key_0, key_1))
                x = tl.where(x >= floor, score, float("-inf"))
        better = x > best
        best = tl.where(better, x, best)
        tokens = tl.where(better, ids, tokens)
        start += TILE
    top = tl.max(best, 0)
    token = tl.min(tl.where(best == top, tokens, _NO_TOKEN), 0)
    is_broken = tl.max(broken.to(tl.int32), 0) > 0
    out = index * tl.num_programs(1) + piece
    tl.store(best_ptr + out, tl.where(is_broken, float("nan"), top))
    tl.store(tokens_ptr + out, token)


@triton.jit(do_not_specialize=["pieces"])  # likewise
def finish_kernel(
    best_ptr,  # float32 [B, pieces]
    piece_tokens_ptr,  # int32 [B, pieces]
    rows_ptr,
    words_ptr,
    tokens_ptr,  # out: int32 [B]
    status_ptr,  # out: int32 [B]
    pieces,
    PIECES: tl.constexpr,  # a power of two that is not below
):
    index = tl.program_id(0)
    lanes = tl.arange(0, PIECES)
    inside = lanes < pieces
    best = tl.load(best_ptr + index * pieces + lanes, mask=inside, other=float("-inf"))
    tokens = tl.load(piece_tokens_ptr + index * pieces + lanes, mask=inside, other=_NO_TOKEN)
    broken = tl.max((best != best).to(tl.int32), 0) > 0
    best = tl.where(best == best, best, float("-inf"))
    top = tl.max(best, 0)
    invalid = broken | (top == float("-inf"))
    token = tl.where(invalid, 0, tl.min(tl.where(best == top, tokens, _NO_TOKEN), 0))
    stops = tl.load(words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS + STOP_IDS + tl.arange(0, MAX_STOP_IDS))
    stopped = tl.max((stops == token).to(tl.int32), 0) > 0
    tl.store(tokens_ptr + index, token)
    tl.store(status_ptr + index, tl.where(invalid, _INVALID, tl.where(stopped, _STOP, 0)))


@triton.jit
def count_kernel(tokens_ptr, status_ptr, rows_ptr, words_ptr, counts_ptr, VOCAB: tl.constexpr):
    """Count the sampled tokens of rows that have an edit row; each such slot is in a batch once."""
    index = tl.program_id(0)
    edit_row = tl.load(words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS + EDIT_ROW).to(tl.int64)
    counted = (edit_row >= 0) & (tl.load(status_ptr + index) != _INVALID)
    count_ptr = counts_ptr + edit_row * VOCAB + tl.load(tokens_ptr + index)
    tl.store(count_ptr, tl.load(count_ptr, mask=counted, other=0) + _ONE_OUTPUT, mask=counted)
