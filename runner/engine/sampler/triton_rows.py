"""What every kernel of the sampler does with a row: its parameters, its edited logits, its noise.

The hash and the noise are those of `runner.engine.sampler.noise`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from runner import limits
from runner.engine.sampler import edits, noise, state

_GOLDEN = tl.constexpr(noise.GOLDEN)
_MULTIPLIER_1 = tl.constexpr(noise.MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(noise.MULTIPLIER_2)
_KEY_0 = tl.constexpr(noise.KEY_0)
_KEY_1 = tl.constexpr(noise.KEY_1)
_LOW_31 = tl.constexpr(noise.LOW_31)
_UNIFORM_SCALE = tl.constexpr(noise.UNIFORM_SCALE)
_LN_2 = tl.constexpr(math.log(2))
_ON_CUDA = tl.constexpr(not triton.knobs.runtime.interpret and torch.version.cuda is not None)
_COUNT_SHIFT = tl.constexpr(edits.COUNT_SHIFT)

WORDS = tl.constexpr(state.WORDS)
MAX_STOP_IDS = tl.constexpr(limits.MAX_STOP_IDS)
TEMPERATURE = tl.constexpr(state.FIRST_WORD["temperature"])
TOP_K = tl.constexpr(state.FIRST_WORD["top_k"])
TOP_P = tl.constexpr(state.FIRST_WORD["top_p"])
MIN_P = tl.constexpr(state.FIRST_WORD["min_p"])
EDIT_ROW = tl.constexpr(state.FIRST_WORD["edit_row"])
STOP_IDS = tl.constexpr(state.FIRST_WORD["stop_ids"])
_SEED_LO = tl.constexpr(state.FIRST_WORD["seed_lo"])
_SEED_HI = tl.constexpr(state.FIRST_WORD["seed_hi"])
_MIN_POSITION = tl.constexpr(state.FIRST_WORD["min_position"])
_REPETITION = tl.constexpr(state.FIRST_WORD["repetition_penalty"])
_PRESENCE = tl.constexpr(state.FIRST_WORD["presence_penalty"])
_FREQUENCY = tl.constexpr(state.FIRST_WORD["frequency_penalty"])


@triton.jit
def load_float(params_ptr, word):
    """A float32 among a slot's words."""
    return tl.load(params_ptr + word).to(tl.float32, bitcast=True)


@triton.jit
def _finalize(x, key):
    x ^= x >> 16
    x *= _MULTIPLIER_1
    x ^= x >> 15
    x = (x + key) * _MULTIPLIER_2
    return x ^ (x >> 15)


@triton.jit
def row_keys(params_ptr, position):
    """The two uint32 key words of a row."""
    low = tl.load(params_ptr + _SEED_LO).to(tl.uint32, bitcast=True)
    high = tl.load(params_ptr + _SEED_HI).to(tl.uint32, bitcast=True)
    place = position.to(tl.uint32, bitcast=True)
    zero = place ^ place
    key_0 = _finalize(_finalize(_finalize(place ^ _KEY_0, zero) ^ low, zero) ^ high, zero + _KEY_0)
    key_1 = _finalize(_finalize(_finalize(place ^ _KEY_1, zero) ^ high, zero) ^ low, zero + _KEY_1)
    return key_0, key_1


@triton.jit
def hash_bits(token_ids, key_0, key_1):
    """31 random bits a token, int32."""
    x = token_ids.to(tl.uint32, bitcast=True) * _GOLDEN
    return (_finalize(x ^ key_0, key_1) & _LOW_31).to(tl.int32, bitcast=True)


@triton.jit
def _log2(x):
    """One instruction on CUDA: 2**-22 off at most, absolutely between 0.5 and 2 and relatively elsewhere."""
    if _ON_CUDA:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return tl.log2(x)


@triton.jit
def negative_gumbel(bits):
    """log(-log1p(-u)), float32, within a few units in the last place of the scores that it is added to.

    The fast logarithm is relatively coarse near 1, where small u need precision: a series serves them.
    """
    u = (bits.to(tl.float32) + 0.5) * _UNIFORM_SCALE
    series = u * (1 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5 + u * (1 / 6))))))
    exponential = tl.where(u < 0.125, series, _log2(1.0 - u) * -_LN_2)
    return _log2(exponential) * _LN_2


@triton.jit
def load_logits(
    logits_ptr,
    params_ptr,
    counts_ptr,
    bias_ptr,
    position,
    token_ids,
    VOCAB: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Edited logits of one row at ``token_ids`` in float32; -inf beyond the vocabulary."""
    inside = token_ids < VOCAB
    x = tl.load(logits_ptr + token_ids, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_COUNTS or HAS_BIAS:
        edit_row = tl.load(params_ptr + EDIT_ROW).to(tl.int64)
        edited = inside & (edit_row >= 0)
        if HAS_BIAS:
            x += tl.load(bias_ptr + edit_row * VOCAB + token_ids, mask=edited, other=0.0)
        if HAS_COUNTS:
            counts = tl.load(counts_ptr + edit_row * VOCAB + token_ids, mask=edited, other=0)
            x = _penalize(x, counts, params_ptr)
    if position < tl.load(params_ptr + _MIN_POSITION):
        for i in tl.range(MAX_STOP_IDS):
            x = tl.where(token_ids == tl.load(params_ptr + STOP_IDS + i), float("-inf"), x)
    return x


@triton.jit
def _penalize(x, counts, params_ptr):
    repetition = load_float(params_ptr, _REPETITION)
    outputs = counts >> _COUNT_SHIFT
    repeated = tl.where(x > 0, x / repetition, x * repetition)
    x = tl.where(counts != 0, repeated, x)
    presence = tl.where(outputs > 0, load_float(params_ptr, _PRESENCE), 0.0)
    return x - (load_float(params_ptr, _FREQUENCY) * outputs.to(tl.float32) + presence)
