"""How long answers get, from those that finished and those that still run.

Short answers finish first, so the finished ones alone tell too little: an answer that runs says only that it is
longer than what it has (it is censored). The product-limit estimate of Kaplan and Meier counts both. Beyond the
lengths that enough answers reached, the rate at which answers end is taken to fall with the root of their length:
between one that stays, which makes tails too short, and Pareto's, which makes them too long.

An answer that nothing but its own limit can end (sampling.ignore_eos) is known from its first token on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_AT_RISK = 10  # answers that a step of the estimate needs to be believed
_TAIL_EVENTS = 20  # ends that make a tail
_TAIL_SHARE = 0.7  # of the longest answer: what is longer tells most about the rest
_FALLING = 6  # so many that started one after another, none longer than the one before: that is an order
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Running:
    """The answers that are not finished."""

    made: np.ndarray  # [R] tokens so far, in the order in which they started
    limits: np.ndarray  # [R] the most that each may get; infinite where nobody says
    certain: bool = False  # each gets just as many

    @classmethod
    def of(cls, made: Sequence[int], limits: Sequence[int] = (), certain: bool = False) -> Running:
        """Without ``limits`` none is known."""
        tokens = np.asarray(made, dtype=np.float64)
        if len(limits) != len(made):
            return cls(tokens, np.full(len(made), np.inf))
        return cls(tokens, np.asarray(limits, dtype=np.float64), certain)

    @property
    def longest_next(self) -> float | None:
        """What none of those that wait is longer than; None where nothing says so.

        Once it has all that there is, the engine starts the longest first.
        """
        latest = self.limits[-_FALLING:]
        is_falling = self.certain and len(latest) == _FALLING and (np.diff(latest) <= 0).all()
        return float(latest[-1]) if is_falling else None


class Lengths:
    """The finished answers of a run. ``limit`` is the longest that an answer may get, where the answers do not say."""

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

    def survival(self, running: Running) -> Survival | None:
        """None before the length of any answer is known."""
        ends, counts = self._ends(running.limits if running.certain else running.limits[:0])
        if not len(ends):
            return None
        ages = np.sort(running.made[:0] if running.certain else running.made)
        at_risk = counts[::-1].cumsum()[::-1] + len(ages) - np.searchsorted(ages, ends, side="left")
        known = max(int(np.searchsorted(-at_risk, -_LEAST_AT_RISK, side="right")), 1)
        shares = np.cumprod(1.0 - counts[:known] / at_risk[:known])
        seen = _Seen(ends, counts, ages)
        return Survival(ends[:known], shares, seen.tail_rate(), self._longest_of(running))

    def _ends(self, certain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lengths of the finished and of the ``certain`` answers, rising, and how many have each."""
        finished = np.array(list(self._counts.items()), dtype=np.float64).reshape(-1, 2)
        ends, places = np.unique(np.concatenate((finished[:, 0], certain)), return_inverse=True)
        weights = np.concatenate((finished[:, 1], np.ones(len(certain))))
        return ends, np.bincount(places.ravel(), weights)

    def _longest_of(self, running: Running) -> float:
        """What an answer that waits may get: as those that run, as far as these say."""
        limits = running.limits[np.isfinite(running.limits)]
        return float(max(limits.max() if len(limits) else self._limit, self.longest))


@dataclass(frozen=True)
class _Seen:
    ends: np.ndarray  # [E] lengths, rising
    counts: np.ndarray  # [E] answers that ended there, or surely will
    ages: np.ndarray  # tokens so far of those that run and may end at any length, rising

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

    def draw(self, count: int, longest: float | None = None) -> np.ndarray:
        """``count`` lengths, spread evenly over the distribution, in an order without a trend.

        With a ``longest`` none is longer, and they fall.
        """
        if longest is None:
            return self.length(_spread(count))
        above = self.at(np.array([longest]))
        return np.sort(np.minimum(self.length(above + (1.0 - above) * _spread(count)), longest))[::-1]

    def draw_rest(self, running: Running) -> np.ndarray:
        """[R] what is still to come of each running answer, spread evenly over what is known; a token at least."""
        ends = running.limits
        if not running.certain:
            order = np.argsort(running.made, kind="stable")
            ends = ends.copy()
            ends[order] = np.minimum(ends[order], self.length(self.at(running.made[order]) * _spread(len(order))))
        return np.maximum(ends - running.made, 1.0)

    @property
    def _scale(self) -> float:
        return self.rate * float(self.ends[-1])


def _spread(count: int) -> np.ndarray:
    """``count`` numbers between 0 and 1, even as can be, neighbours far apart (multiples of the golden mean)."""
    ranks = np.argsort(np.argsort(np.arange(1, count + 1) * _GOLDEN % 1.0))
    return (ranks + 0.5) / max(count, 1)
