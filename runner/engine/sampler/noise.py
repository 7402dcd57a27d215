"""Gumbel noise as a function of (seed, position, token): no state, no order, the same on CPU and GPU.

A row's seed and position give a 64-bit key; a keyed integer hash of the token id gives 31 uniform bits. Only 32-bit
integer arithmetic that wraps around is used, so that torch (int32) and Triton (uint32) agree to the bit. The hash is a
two-multiplication finalizer in the manner of Wellons' lowbias32, with half of the key before it and half inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
MULTIPLIER_1 = 0x21F0AAAD
MULTIPLIER_2 = 0xD35A2D97
KEY_0 = 0x85EBCA6B
KEY_1 = 0xC2B2AE35
LOW_31 = 0x7FFFFFFF
UNIFORM_SCALE = (1 - 2.0**-24) * 2.0**-31
"""Turns 31 bits + 0.5 into a float32 in (0, 1): the factor below 1 keeps the largest from rounding up to 1."""


def signed(word: int) -> int:
    """The int32 with the same bits as a 32-bit word."""
    return word - (1 << 32) if word >= 1 << 31 else word


def _shift_xor(x: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """x ^= x >>> shift; int32 has the arithmetic shift only, so the copies of the sign are masked off."""
    torch.bitwise_right_shift(x, shift, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))


def _finalize(x: Tensor, key: Tensor | int, scratch: Tensor) -> Tensor:
    """Mix the bits of int32 ``x`` in place, ``key`` added half-way."""
    _shift_xor(x, 16, scratch).mul_(signed(MULTIPLIER_1))
    _shift_xor(x, 15, scratch).add_(key).mul_(signed(MULTIPLIER_2))
    return _shift_xor(x, 15, scratch)


def row_keys(seed_lo: Tensor, seed_hi: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The two key words, int32 [B] each, of int32 [B] seed words and positions: two hashes of all 96 bits."""
    scratch = torch.empty_like(positions)
    keys = []
    for constant, first, second in ((KEY_0, seed_lo, seed_hi), (KEY_1, seed_hi, seed_lo)):
        x = _finalize(positions ^ signed(constant), 0, scratch)
        x = _finalize(x ^ first, 0, scratch)
        keys.append(_finalize(x ^ second, signed(constant), scratch))
    return keys[0], keys[1]


def token_words(token_ids: Tensor) -> Tensor:
    """The tokens' part of the hash, int32: computed once for a vocabulary."""
    return token_ids.to(torch.int32) * signed(GOLDEN)


def hash_bits(words: Tensor, key_0: Tensor, key_1: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """31 random bits a token, int32: ``words`` of `token_words` broadcast against the keys; fills ``out``."""
    torch.bitwise_xor(words, key_0, out=out)
    return _finalize(out, key_1, scratch).bitwise_and_(LOW_31)


def negative_gumbel(bits: Tensor, out: Tensor) -> Tensor:
    """log(-log1p(-u)), float32, for the uniform u of 31 bits: subtract it to add Gumbel noise.

    Small u decide (they are the large noise), and log1p keeps all their bits.
    """
    out.copy_(bits)
    return out.add_(0.5).mul_(-UNIFORM_SCALE).log1p_().neg_().log_()
