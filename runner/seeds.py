"""Seeds that depend only on what is asked, never on batch, rank or restart."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_SIGN = 1 << 63


def _mix(x: int) -> int:
    """One round of splitmix64 (Steele, Lea and Flood, 2014): a bijection on 64 bits."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample_seed(run_seed: int, row_id: int, request_index: int = 0, sample_index: int = 0) -> int:
    """The seed of one sample: a non-negative int64."""
    x = _mix(run_seed & _MASK)
    for part in (row_id, request_index, sample_index):
        x = _mix(x ^ part)
    return x >> 1


def seed_of(own_seed: int | None, run_seed: int, row_id: int, request_index: int, sample_index: int) -> int:
    """The seed of one sample, an int64: a request's own seed counts up over its samples, otherwise the row decides.

    Past the largest int64 it goes on at the smallest.
    """
    if own_seed is None:
        return sample_seed(run_seed, row_id, request_index, sample_index)
    return ((own_seed + sample_index + _SIGN) & _MASK) - _SIGN
