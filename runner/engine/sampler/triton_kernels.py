# mypy: disallow-untyped-defs=False
"""The sampler's kernels. Rows share a grid of fixed size; what a row asks for is decided on the device.

`floor_kernel` finds what the filters keep, `choose_kernel` reads the logits once and takes the best score of each
piece of the vocabulary, `finish_kernel` takes the best piece. Logits stay in their own type in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.sampler import base, edits
from runner.engine.sampler.triton_rows import (
    EDIT_ROW,
    MAX_STOP_IDS,
    MIN_P,
    STOP_IDS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
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


@triton.jit
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


@triton.jit
def finish_kernel(
    best_ptr,  # float32 [B, pieces]
    piece_tokens_ptr,  # int32 [B, pieces]
    rows_ptr,
    words_ptr,
    tokens_ptr,  # out: int32 [B]
    status_ptr,  # out: int32 [B]
    pieces,
    PIECES: tl.constexpr,  # pieces rounded up to a power of two
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
def _search(
    target,
    by_mass,
    low,
    high,
    top,
    inverse,
    row_ptr,
    params_ptr,
    counts_ptr,
    bias_ptr,
    position,
    VOCAB: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PIVOTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The largest logit t in [low, high] such that the logits >= t weigh at least ``target``.

    A logit weighs exp((x - top) * inverse), or 1. ``low`` and ``high`` are logits of the row; each pass weighs PIVOTS
    evenly spaced thresholds and draws both in to logits again, until they meet.
    """
    steps = tl.arange(0, PIVOTS) + 1
    while low < high:
        pivots = tl.where(steps == PIVOTS, high, low + (high - low) * (steps.to(tl.float32) / PIVOTS))
        weights = tl.zeros([PIVOTS, TILE], tl.float32)
        above = tl.full([PIVOTS, TILE], _INF, tl.float32)  # smallest logit >= pivot
        below = tl.full([PIVOTS, TILE], float("-inf"), tl.float32)  # largest logit < pivot
        for start in tl.range(0, VOCAB, TILE):
            ids = start + tl.arange(0, TILE)
            x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)[
                None, :
            ]
            weight = tl.where(by_mass, tl.exp((x - top) * inverse), 1.0)
            over = x >= pivots[:, None]
            weights += tl.where(over, weight, 0.0)
            above = tl.minimum(above, tl.where(over, x, _INF))
            below = tl.maximum(below, tl.where(over, float("-inf"), x))
        met = tl.sum(weights, 1) >= target
        low = tl.maximum(low, tl.max(tl.where(met, tl.min(above, 1), low), 0))
        high = tl.min(tl.where(met, high, tl.max(below, 1)), 0)
    return low


@triton.jit
def floor_kernel(
    logits_ptr,
    rows_ptr,
    positions_ptr,
    words_ptr,
    counts_ptr,
    bias_ptr,
    floors_ptr,  # out: float32 [B], the smallest logit that is kept; -inf where nothing is filtered
    logits_stride,
    VOCAB: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PIVOTS: tl.constexpr,
    TILE: tl.constexpr,
):
    index = tl.program_id(0)
    params_ptr = words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS
    position = tl.load(positions_ptr + index)
    row_ptr = logits_ptr + index.to(tl.int64) * logits_stride
    temperature = load_float(params_ptr, TEMPERATURE)
    top_k = tl.load(params_ptr + TOP_K)
    top_p = load_float(params_ptr, TOP_P)
    min_p = load_float(params_ptr, MIN_P)
    by_count = (top_k > 0) & (top_k < VOCAB)
    floor = float("-inf")
    if (temperature > 0) & (by_count | (top_p < 1) | (min_p > 0)):
        inverse = tl.div_rn(1.0, temperature)
        most = tl.full([TILE], float("-inf"), tl.float32)
        least = tl.full([TILE], _INF, tl.float32)
        for start in tl.range(0, VOCAB, TILE):
            ids = start + tl.arange(0, TILE)
            x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
            most = tl.maximum(most, x)
            least = tl.minimum(least, tl.where(x == float("-inf"), _INF, x))
        top = tl.max(most, 0)
        low = tl.min(least, 0)
        if top < _INF:
            if by_count:
                low = _search(
                    top_k.to(tl.float32), False, low, top, top, inverse,
                    row_ptr, params_ptr, counts_ptr, bias_ptr, position, VOCAB,
                    HAS_COUNTS, HAS_BIAS, PIVOTS, TILE,
                )  # fmt: skip
            if top_p < 1:
                mass = tl.zeros([TILE], tl.float32)
                for start in tl.range(0, VOCAB, TILE):
                    ids = start + tl.arange(0, TILE)
                    x = load_logits(
                        row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS
                    )
                    mass += tl.where(x >= low, tl.exp((x - top) * inverse), 0.0)
                low = _search(
                    top_p * tl.sum(mass, 0), True, low, top, top, inverse,
                    row_ptr, params_ptr, counts_ptr, bias_ptr, position, VOCAB,
                    HAS_COUNTS, HAS_BIAS, PIVOTS, TILE,
                )  # fmt: skip
            floor = low
            if min_p > 0:
                floor = tl.maximum(floor, top + tl.log(min_p) * temperature)
    tl.store(floors_ptr + index, floor)


@triton.jit
def logprobs_kernel(
    logits_ptr,
    rows_ptr,
    positions_ptr,
    words_ptr,
    counts_ptr,
    bias_ptr,
    floors_ptr,
    tokens_ptr,  # int32 [B], the sampled tokens
    status_ptr,  # int32 [B]
    sampled_ptr,  # out: float32 [B]
    ids_ptr,  # out: int32 [B, K]
    logprobs_ptr,  # out: float32 [B, K]
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_LOGPROBS: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE: tl.constexpr,
):
    """One pass for the normaliser and one for each of the K best tokens: they come in falling order."""
    index = tl.program_id(0)
    params_ptr = words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS
    position = tl.load(positions_ptr + index)
    row_ptr = logits_ptr + index.to(tl.int64) * logits_stride
    temperature = load_float(params_ptr, TEMPERATURE)
    inverse = tl.where(temperature > 0, tl.div_rn(1.0, temperature), 1.0)
    floor = tl.load(floors_ptr + index)
    valid = tl.load(status_ptr + index) != _INVALID
    most = tl.full([TILE], float("-inf"), tl.float32)
    mass = tl.zeros([TILE], tl.float32)
    for start in tl.range(0, VOCAB, TILE):
        ids = start + tl.arange(0, TILE)
        x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
        scaled = tl.where((x >= floor) & (x > float("-inf")), x * inverse, float("-inf"))
        larger = tl.maximum(most, scaled)
        mass = tl.where(larger == float("-inf"), 0.0, mass * tl.exp(most - larger) + tl.exp(scaled - larger))
        most = larger
    top = tl.max(most, 0)
    normaliser = top + tl.log(tl.sum(tl.where(most == float("-inf"), 0.0, mass * tl.exp(most - top)), 0))
    token = tl.load(tokens_ptr + index) + tl.arange(0, 1)
    chosen = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, token, VOCAB, HAS_COUNTS, HAS_BIAS)
    sampled = tl.sum(chosen * inverse - normaliser, 0)
    tl.store(sampled_ptr + index, tl.where(valid, sampled, float("-inf")))
    last = _INF
    last_id = -1
    for k in tl.range(NUM_LOGPROBS):
        best = tl.full([TILE], float("-inf"), tl.float32)
        best_ids = tl.full([TILE], _NO_TOKEN, tl.int32)
        for start in tl.range(0, VOCAB, TILE):
            ids = start + tl.arange(0, TILE)
            x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
            follows = (x < last) | ((x == last) & (ids > last_id))
            better = follows & (x >= floor) & (x > best)
            best = tl.where(better, x, best)
            best_ids = tl.where(better, ids, best_ids)
        last = tl.max(best, 0)
        last_id = tl.min(tl.where(best == last, best_ids, _NO_TOKEN), 0)
        found = valid & (last > float("-inf"))
        out = index * NUM_LOGPROBS + k
        tl.store(ids_ptr + out, tl.where(found, last_id, -1))
        tl.store(logprobs_ptr + out, tl.where(found, last * inverse - normaliser, float("-inf")))


@triton.jit
def count_kernel(tokens_ptr, status_ptr, rows_ptr, words_ptr, counts_ptr, VOCAB: tl.constexpr):
    """Count the sampled tokens of rows that have an edit row; each such slot is in a batch once."""
    index = tl.program_id(0)
    edit_row = tl.load(words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS + EDIT_ROW).to(tl.int64)
    counted = (edit_row >= 0) & (tl.load(status_ptr + index) != _INVALID)
    count_ptr = counts_ptr + edit_row * VOCAB + tl.load(tokens_ptr + index)
    tl.store(count_ptr, tl.load(count_ptr, mask=counted, other=0) + _ONE_OUTPUT, mask=counted)
