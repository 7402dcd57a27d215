"""How long answers get, from those that finished and those that still run.

Short answers finish first, so the finished ones alone tell too little: an answer that runs says only that it is
longer than what it has (it is censored). The product-limit estimate of Kaplan and Meier counts both. Beyond the
lengths that enough answers reached, the rate at which answers end is taken to fall with the root of their length:
between one that stays, which makes tails too short, and Pareto's, which makes them too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_AT_RISK = 10  # answers that a step of the estimate needs to be believed
_TAIL_EVENTS = 20  # ends that make a tail
_TAIL_SHARE = 0.7  # of the longest answer: what is longer tells most about the rest
_GOLDEN = 0.6180339887498949


class Lengths:
    """The finished answers of a run. ``limit`` is the longest that an answer may get."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: Counter[int] = Counter()
        self.samples = 0
        self.tokens = 0
        self.longest = 0

    def add(self, tokens: int) -> None:
        self._counts[tokens or 1] += 1  # one that ended without a token took a step as well
        self.samples += 1
        self.tokens += tokens
        if tokens > self.longest:
            self.longest = tokens

    def survival(self, running: Sequence[int]) -> Survival | None:
        """``running`` has the tokens so far of each answer that is not finished; None before one is."""
        if not self.samples:
            return None
        ends = np.array(sorted(self._counts), dtype=np.float64)
        counts = np.array([self._counts[int(end)] for end in ends], dtype=np.float64)
        ages = np.sort(np.asarray(running, dtype=np.float64))
        at_risk = counts[::-1].cumsum()[::-1] + len(ages) - np.searchsorted(ages, ends, side="left")
        known = max(int(np.searchsorted(-at_risk, -_LEAST_AT_RISK, side="right")), 1)
        shares = np.cumprod(1.0 - counts[:known] / at_risk[:known])
        seen = _Seen(ends, counts, ages)
        return Survival(ends[:known], shares, seen.tail_rate(), float(max(self._limit, self.longest)))


@dataclass(frozen=True)
class _Seen:
    ends: np.ndarray  # [E] lengths, rising
    counts: np.ndarray  # [E] answers that ended there
    ages: np.ndarray  # [R] tokens so far of those that run, rising

    def tail_rate(self) -> float:
        """Ends per token among the longest, helped by one end of the wider tail where there are few."""
        longest = max(float(self.ends[-1]), float(self.ages[-1]) if len(self.ages) else 0.0)
        few = min(int(np.searchsorted(self.counts[::-1].cumsum(), _TAIL_EVENTS)), len(self.ends) - 1)
        wide_ends, wide_tokens = self._beyond(float(self.ends[-1 - few]) - 1)
        ends, tokens = self._beyond(_TAIL_SHARE * longest)
        return (ends + 1.0) / (tokens + max(wide_tokens, 1.0) / wide_ends)

    def _beyond(self, start: float) -> tuple[float, float]:
        """How many answers ended beyond a length, and the tokens that all together made beyond it."""
        made = (self.counts * np.maximum(self.ends - start, 0)).sum() + np.maximum(self.ages - start, 0).sum()
        return float(self.counts[self.ends > start].sum()), float(made)


@dataclass(frozen=True)
class Survival:
    """The share of answers longer than a number of tokens: falls to ``shares[i]`` at ``ends[i]``, smoothly beyond."""

    ends: np.ndarray  # [E] tokens, rising
    shares: np.ndarray  # [E], falling
    rate: float  # ends per token at the last of them
    limit: float

    def at(self, tokens: np.ndarray) -> np.ndarray:
        """The share that is longer than each of ``tokens``."""
        places = np.searchsorted(self.ends, tokens, side="right")
        stretch = np.sqrt(np.maximum(tokens / self.ends[-1], 1.0)) - 1.0
        return np.concatenate(([1.0], self.shares))[places] * np.exp(-2.0 * self._scale * stretch)

    def length(self, shares: np.ndarray) -> np.ndarray:
        """The length that each of ``shares`` of all answers exceed: the inverse of `at`."""
        places = np.searchsorted(-self.shares, -shares, side="left")
        known = self.ends[np.minimum(places, len(self.ends) - 1)]
        below = np.maximum(self.shares[-1] / np.maximum(shares, 1e-12), 1.0)
        beyond = self.ends[-1] * (1.0 + np.log(below) / (2.0 * self._scale)) ** 2
        return np.minimum(np.where(places < len(self.ends), known, beyond), self.limit)

    def draw(self, count: int) -> np.ndarray:
        """``count`` lengths, spread evenly over the distribution, in an order without a trend."""
        return self.length(_spread(count))

    def draw_rest(self, running: np.ndarray) -> np.ndarray:
        """What is still to come of each running answer, spread evenly over what is known; a token at least."""
        ages = np.sort(running)
        return np.maximum(self.length(self.at(ages) * _spread(len(ages))) - ages, 1.0)

    @property
    def _scale(self) -> float:
        return self.rate * float(self.ends[-1])


def _spread(count: int) -> np.ndarray:
    """``count`` numbers between 0 and 1, even as can be, neighbours far apart (multiples of the golden mean)."""
    ranks = np.argsort(np.argsort(np.arange(1, count + 1) * _GOLDEN % 1.0))
    return (ranks + 0.5) / max(count, 1)
