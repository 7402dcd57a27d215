"""Log-probabilities of the distribution that was sampled from."""

from __future__ import annotations

import triton
import triton.language as tl

from runner.engine.sampler import base
from runner.engine.sampler.triton_rows import TEMPERATURE, WORDS, load_float, load_logits

_INVALID = tl.constexpr(int(base.Status.INVALID))
_NO_TOKEN = tl.constexpr(2**31 - 1)
_INF = tl.constexpr(float("inf"))


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
