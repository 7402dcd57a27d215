"""Finds a sample that has fallen into an exact cycle."""

from __future__ import annotations

import numpy as np

_FEWEST_REPEATS = 3
_LONGEST_PERIOD = 64


def ends_in_cycle(tokens: np.ndarray, cover: int) -> bool:
    """Whether the last ``cover`` tokens repeat one sequence of at most 64 tokens, at least three times over."""
    if len(tokens) < cover:
        return False
    tail = tokens[-cover:]
    longest = min(_LONGEST_PERIOD, cover // _FEWEST_REPEATS)
    return any(np.array_equal(tail[period:], tail[:-period]) for period in range(1, longest + 1))
