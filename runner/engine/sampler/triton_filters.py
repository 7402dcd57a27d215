"""What top-k, top-p and min-p keep, as one threshold a row, found without a sort.

`survey_kernel` reads the logits once, spread over the whole GPU: the maximum of every GROUP neighbours and the mass of
every piece. `floor_kernel` has one program a row: it takes the CANDIDATES groups with the largest maxima, which hold
every logit above the smallest of those maxima, and searches them in registers. Only when the kept set reaches below
(a flat distribution) does it search by passes over the row. Rows without filters leave at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.sampler.triton_rows import MIN_P, TEMPERATURE, TOP_K, TOP_P, WORDS, load_float, load_logits

_INF = tl.constexpr(float("inf"))


@triton.jit
def _filters(params_ptr, VOCAB: tl.constexpr):
    """(temperature, top_k or 0, top_p, min_p, whether any of them filters)."""
    temperature = load_float(params_ptr, TEMPERATURE)
    top_k = tl.load(params_ptr + TOP_K)
    top_k = tl.where(top_k < VOCAB, top_k, 0)
    top_p = load_float(params_ptr, TOP_P)
    min_p = load_float(params_ptr, MIN_P)
    return temperature, top_k, top_p, min_p, (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0))


@triton.jit
def survey_kernel(
    logits_ptr,
    rows_ptr,
    positions_ptr,
    words_ptr,
    counts_ptr,
    bias_ptr,
    groups_ptr,  # out: float32 [B, NUM_GROUPS], the maximum of each GROUP logits
    tops_ptr,  # out: float32 [B, tiles], the maximum of each tile
    masses_ptr,  # out: float32 [B, tiles], its sum of exp((x - maximum) / temperature)
    logits_stride,
    VOCAB: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
):
    index = tl.program_id(0)
    tile = tl.program_id(1)
    params_ptr = words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS
    temperature, _, _, _, filtered = _filters(params_ptr, VOCAB)
    if filtered:
        position = tl.load(positions_ptr + index)
        row_ptr = logits_ptr + index.to(tl.int64) * logits_stride
        groups = tile * (TILE // GROUP) + tl.arange(0, TILE // GROUP)
        ids = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
        maxima = tl.max(x, 1)
        top = tl.max(maxima, 0)
        mass = tl.sum(tl.sum(tl.exp((x - top) * tl.div_rn(1.0, temperature)), 1), 0)
        tl.store(groups_ptr + index.to(tl.int64) * NUM_GROUPS + groups, maxima, mask=groups < NUM_GROUPS)
        tl.store(tops_ptr + index * tl.num_programs(1) + tile, top)
        tl.store(masses_ptr + index * tl.num_programs(1) + tile, tl.where(top > float("-inf"), mass, 0.0))


@triton.jit
def _search_values(target, low, high, x, weights):
    """The largest t in [low, high] such that the ``weights`` of values x >= t sum to ``target``, by bisection.

    ``high`` is a value, and so is the answer; ``low`` is returned when even it does not reach the target.
    """
    while low < high:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle > low, middle, high)
        over = x >= middle
        met = tl.sum(tl.where(over, weights, 0.0), 0) >= target
        above = tl.min(tl.where(over, x, _INF), 0)
        below = tl.max(tl.where(over, float("-inf"), x), 0)
        low = tl.where(met, above, low)
        high = tl.where(met, high, tl.maximum(below, low))
    return low


@triton.jit
def _smallest(x):
    """The smallest finite value."""
    return tl.min(tl.where(x > float("-inf"), x, _INF), 0)


@triton.jit
def _search_row(
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
    """The largest logit t in [low, high] such that the logits >= t of the row weigh at least ``target``.

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
def _floor_of_row(
    top_k,
    top_p,
    top,
    total,
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
    """The smallest logit that top-k and top-p keep, by passes over the row. ``total`` is the mass of the whole row."""
    least = tl.full([TILE], _INF, tl.float32)
    for start in tl.range(0, VOCAB, TILE):
        ids = start + tl.arange(0, TILE)
        x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
        least = tl.minimum(least, tl.where(x > float("-inf"), x, _INF))
    floor = tl.min(least, 0)
    if top_k > 0:
        floor = _search_row(
            top_k.to(tl.float32), False, floor, top, top, inverse,
            row_ptr, params_ptr, counts_ptr, bias_ptr, position, VOCAB, HAS_COUNTS, HAS_BIAS, PIVOTS, TILE,
        )  # fmt: skip
        masses = tl.zeros([TILE], tl.float32)
        for start in tl.range(0, VOCAB, TILE):
            ids = start + tl.arange(0, TILE)
            x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
            masses += tl.where(x >= floor, tl.exp((x - top) * inverse), 0.0)
        total = tl.sum(masses, 0)
    if top_p < 1:
        floor = _search_row(
            top_p * total, True, floor, top, top, inverse,
            row_ptr, params_ptr, counts_ptr, bias_ptr, position, VOCAB, HAS_COUNTS, HAS_BIAS, PIVOTS, TILE,
        )  # fmt: skip
    return floor


@triton.jit
def _candidate_ids(
    groups_ptr, chosen_ptr, VOCAB: tl.constexpr, NUM_GROUPS: tl.constexpr, GROUPS: tl.constexpr,
    GROUP: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """(token ids [CANDIDATES * GROUP], bound): the ids hold every logit of the row that is not below the bound.

    Places that are not needed hold VOCAB. The bound is -inf when all groups fit.
    """
    lanes = tl.arange(0, GROUPS)
    maxima = tl.load(groups_ptr + lanes, mask=lanes < NUM_GROUPS, other=float("-inf"))
    bound = float("-inf")
    chosen = lanes < NUM_GROUPS
    if NUM_GROUPS > CANDIDATES:
        # The smallest bound that leaves CANDIDATES groups at most: ties at the edge are left out together.
        edge = _search_values(CANDIDATES + 1.0, _smallest(maxima), tl.max(maxima, 0), maxima, 1.0)
        bound = tl.min(tl.where(maxima > edge, maxima, _INF), 0)
        chosen = maxima >= bound
    tl.store(chosen_ptr + tl.cumsum(chosen.to(tl.int32), 0) - 1, lanes, mask=chosen)
    tl.debug_barrier()  # what the threads stored is read by others
    places = tl.arange(0, CANDIDATES)
    filled = places < tl.sum(chosen.to(tl.int32), 0)
    groups = tl.load(chosen_ptr + places, mask=filled, other=0)
    ids = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return tl.reshape(tl.where(filled[:, None], ids, VOCAB), [CANDIDATES * GROUP]), bound


@triton.jit
def floor_kernel(
    logits_ptr,
    rows_ptr,
    positions_ptr,
    words_ptr,
    counts_ptr,
    bias_ptr,
    groups_ptr,  # float32 [B, NUM_GROUPS]
    tops_ptr,  # float32 [B, NUM_TILES]
    masses_ptr,  # float32 [B, NUM_TILES]
    chosen_ptr,  # scratch: int32 [B, CANDIDATES]
    floors_ptr,  # out: float32 [B], the smallest logit that is kept; -inf where nothing is filtered
    logits_stride,
    VOCAB: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,  # rounded up to a power of two, as TILES
    NUM_TILES: tl.constexpr,
    TILES: tl.constexpr,
    GROUP: tl.constexpr,
    CANDIDATES: tl.constexpr,
    PIVOTS: tl.constexpr,
    TILE: tl.constexpr,
):
    index = tl.program_id(0)
    wide = index.to(tl.int64)
    params_ptr = words_ptr + tl.load(rows_ptr + index).to(tl.int64) * WORDS
    temperature, top_k, top_p, min_p, filtered = _filters(params_ptr, VOCAB)
    floor = float("-inf")
    if filtered:
        position = tl.load(positions_ptr + index)
        row_ptr = logits_ptr + wide * logits_stride
        inverse = tl.div_rn(1.0, temperature)
        tiles = tl.arange(0, TILES)
        tops = tl.load(tops_ptr + index * NUM_TILES + tiles, mask=tiles < NUM_TILES, other=float("-inf"))
        masses = tl.load(masses_ptr + index * NUM_TILES + tiles, mask=tiles < NUM_TILES, other=0.0)
        top = tl.max(tops, 0)
        total = tl.sum(masses * tl.exp((tops - top) * inverse), 0)
        if (total > 0) & (top < _INF):  # a broken row keeps everything and is reported by choose_kernel
            if (top_k > 0) | (top_p < 1):
                ids, bound = _candidate_ids(
                    groups_ptr + wide * NUM_GROUPS, chosen_ptr + wide * CANDIDATES,
                    VOCAB, NUM_GROUPS, GROUPS, GROUP, CANDIDATES,
                )  # fmt: skip
                x = load_logits(row_ptr, params_ptr, counts_ptr, bias_ptr, position, ids, VOCAB, HAS_COUNTS, HAS_BIAS)
                x = tl.where(x >= bound, x, float("-inf"))
                floor = _smallest(x)
                count = tl.sum((x > float("-inf")).to(tl.int32), 0)
                reached = (bound == float("-inf")) | ((count > 0) & (count >= top_k))
                if top_k > 0:
                    floor = _search_values(top_k.to(tl.float32), floor, top, x, 1.0)
                if top_p < 1:
                    weights = tl.exp((x - top) * inverse)
                    kept = tl.sum(tl.where(x >= floor, weights, 0.0), 0)
                    target = top_p * tl.where(top_k > 0, kept, total)
                    reached &= (bound == float("-inf")) | (kept >= target)
                    floor = _search_values(target, floor, top, x, weights)
                if not reached:
                    floor = _floor_of_row(
                        top_k, top_p, top, total, inverse,
                        row_ptr, params_ptr, counts_ptr, bias_ptr, position,
                        VOCAB, HAS_COUNTS, HAS_BIAS, PIVOTS, TILE,
                    )  # fmt: skip
            if min_p > 0:
                floor = tl.maximum(floor, top + tl.log(min_p) * temperature)
    tl.store(floors_ptr + index, floor)
