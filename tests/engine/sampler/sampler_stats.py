"""Tests of a distribution, in plain numpy."""

from __future__ import annotations

import numpy as np


def chi_square_z(observed: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic lies above its mean (Wilson and Hilferty's cube root).

    Cells that expect fewer than 5 are put together.
    """
    small = expected < 5
    if small.any():
        observed = np.append(observed[~small], observed[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
    freedom = len(observed) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def uniform_z(table: np.ndarray) -> float:
    """`chi_square_z` of a table whose cells should be equal."""
    return chi_square_z(table, np.full(len(table), table.sum() / len(table)))


def kolmogorov(samples: np.ndarray, cumulative: np.ndarray) -> float:
    """Kolmogorov's statistic times sqrt(n); above 1.95 once in a thousand. ``cumulative`` is the CDF at samples."""
    order = np.sort(cumulative)
    n = len(samples)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - order).max(), (order - steps[:-1]).max()) * n**0.5)
