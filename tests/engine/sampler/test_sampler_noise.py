"""The hash is what it says, in another arithmetic; the noise is Gumbel's; both halves of the key matter."""

from __future__ import annotations

import numpy as np
import torch
from sampler_stats import kolmogorov, uniform_z

from runner.engine.sampler.noise import hash_bits, negative_gumbel, row_keys, token_words

MASK = (1 << 32) - 1


def finalize(x: int, key: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = (x + key) * 0xD35A2D97 & MASK
    return x ^ x >> 15


def reference_keys(seed: int, position: int) -> tuple[int, int]:
    low, high = seed & MASK, seed >> 32 & MASK
    keys = []
    for constant, first, second in ((0x85EBCA6B, low, high), (0xC2B2AE35, high, low)):
        x = finalize(position ^ constant, 0)
        keys.append(finalize(finalize(x ^ first, 0) ^ second, constant))
    return keys[0], keys[1]


def reference_bits(token: int, seed: int, position: int) -> int:
    key_0, key_1 = reference_keys(seed, position)
    return finalize(token * 0x9E3779B9 & MASK ^ key_0, key_1) & 0x7FFFFFFF


def bits_of(seeds: np.ndarray, positions: np.ndarray, tokens: int) -> torch.Tensor:
    words = torch.from_numpy(seeds.astype(np.int64).view(np.int32).reshape(-1, 2))
    keys = row_keys(words[:, 0], words[:, 1], torch.from_numpy(positions.astype(np.int32)))
    out = torch.empty(len(seeds), tokens, dtype=torch.int32)
    ids = token_words(torch.arange(tokens))
    return hash_bits(ids, keys[0][:, None], keys[1][:, None], out, torch.empty_like(out))


def test_bits_equal_unbounded_integers() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.integers(-(2**63), 2**63 - 1, 20)
    positions = rng.integers(0, 2**31 - 1, 20)
    bits = bits_of(seeds, positions, 70)
    for row in range(20):
        for token in (0, 1, 2, 63, 69):
            assert bits[row, token] == reference_bits(token, int(seeds[row]), int(positions[row]))


def test_noise_is_gumbel() -> None:
    bits = bits_of(np.arange(40), np.arange(40), 10_000)
    noise = -negative_gumbel(bits, torch.empty(bits.shape)).double().flatten().numpy()
    assert kolmogorov(noise, np.exp(-np.exp(-noise))) < 1.95


def test_extreme_bits_stay_finite_and_precise() -> None:
    bits = torch.tensor([0, 1, 2**31 - 1], dtype=torch.int32)
    noise = -negative_gumbel(bits, torch.empty(3)).double()
    u = (bits.double() + 0.5) * 2.0**-31
    expected = -torch.log(-torch.log1p(-u))
    torch.testing.assert_close(noise[:2], expected[:2], rtol=1e-6, atol=0)
    assert noise.isfinite().all() and noise[2] < -2.8


def flip_rate(seeds: np.ndarray, positions: np.ndarray, other_seeds: np.ndarray, other_positions: np.ndarray) -> float:
    a, b = bits_of(seeds, positions, 256).numpy(), bits_of(other_seeds, other_positions, 256).numpy()
    return float(np.unpackbits((a ^ b).view(np.uint8)).mean()) * 32 / 31


def test_every_key_bit_flips_half_of_the_output() -> None:
    seeds, positions = np.random.default_rng(1).integers(0, 2**62, 64), np.arange(64)
    for bit in range(0, 63, 3):
        assert abs(flip_rate(seeds, positions, seeds ^ (1 << bit), positions) - 0.5) < 0.01
    for bit in range(0, 31, 3):
        assert abs(flip_rate(seeds, positions, seeds, positions ^ (1 << bit)) - 0.5) < 0.01


def test_swapped_seed_halves_are_another_seed() -> None:
    seed = np.array([0x12345678_0BADCAFE])
    swapped = np.array([0x0BADCAFE_12345678])
    assert abs(flip_rate(seed, np.zeros(1), swapped, np.zeros(1)) - 0.5) < 0.05


def test_tokens_of_one_row_are_independent() -> None:
    """Neighbouring tokens and neighbouring positions fall into a 16 x 16 table evenly."""
    bits = bits_of(np.zeros(400), np.arange(400), 400).numpy() >> 27
    for a, b in ((bits[:, :-1], bits[:, 1:]), (bits[:-1], bits[1:]), (bits[:-1, :-1], bits[1:, 1:])):
        table = np.bincount((a * 16 + b).ravel(), minlength=256)
        assert uniform_z(table) < 3.5
