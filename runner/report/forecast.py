"""How long the rest of a run takes: what is left, run through the places of the engine at the speed of its steps.

Rows a second say nothing of the tail: the bulk keeps every place of a batch busy, the last long answers run alone.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from runner.report.lengths import Survival
from runner.report.throughput import Reading

_DECAY = 0.98  # of what is known of the speed, at each reading: about the last minute counts
_ASSUMED_FIXED = 0.5  # of a step's time, whatever the batch: until batches of several sizes were seen
_ASSUMED_WEIGHT = 0.05
_ROUNDS = 4  # of all places, that are run through one by one; more take their share of time


class StepCost:
    """Seconds of a step as a line over its running sequences, fitted to readings; prompts are apart."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def add(self, before: Reading, after: Reading) -> None:
        """The stretch between two readings of one engine."""
        steps = after.stats.steps - before.stats.steps
        prefill = after.stats.prefill_seconds - before.stats.prefill_seconds
        seconds = after.at - before.at - prefill
        if steps <= 0 or seconds <= 0:
            return
        rows = (after.stats.completion_tokens - before.stats.completion_tokens) / steps
        sums = (1.0, rows, seconds / steps, rows * rows, rows * seconds / steps)
        old = (self._weight, self._rows, self._seconds, self._squares, self._products)
        self._weight, self._rows, self._seconds, self._squares, self._products = (
            _DECAY * a + b for a, b in zip(old, sums, strict=True)
        )

    @property
    def is_known(self) -> bool:
        return self._weight > 0 and self._rows > 0

    def line(self, empty_seconds: float | None) -> tuple[float, float]:
        """(seconds of a step without a sequence, more for each); neither is negative.

        ``empty_seconds`` is what the former is by the card's limits; where batches of one size only have been seen,
        it or a share of their time has to stand in.
        """
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        assumed = _ASSUMED_WEIGHT * self._weight
        weight, rows = self._weight + assumed, self._rows
        empty = _ASSUMED_FIXED * mean_seconds if empty_seconds is None else min(empty_seconds, mean_seconds)
        seconds = self._seconds + assumed * empty  # one more observation, made up
        spread = weight * self._squares - rows * rows
        slope = (weight * self._products - rows * seconds) / spread if spread > 0 else 0.0
        slope = min(max(slope, 0.0), mean_seconds / mean_rows)
        return mean_seconds - slope * mean_rows, slope


@dataclass(frozen=True)
class Rest:
    """What is left: answers not begun, and the tokens so far of those that run; ``places`` for them in the engine."""

    num_waiting: float
    running: np.ndarray  # [R]
    places: int


def seconds_left(
    rest: Rest, survival: Survival, cost: StepCost, prefill_seconds: float, empty_seconds: float | None = None
) -> float | None:
    """``prefill_seconds`` is what one answer's prompt takes; None while the speed of a step is not known."""
    if not cost.is_known:
        return None
    fixed, slope = cost.line(empty_seconds)
    places = max(rest.places, len(rest.running), 1)
    drawn = min(round(rest.num_waiting), _ROUNDS * places)
    more = rest.num_waiting - drawn
    lengths = survival.draw(drawn)
    steps = _Steps(survival.draw_rest(rest.running), lengths, places)
    seconds = steps.count * fixed + steps.tokens * slope + rest.num_waiting * prefill_seconds
    if more > 0:  # as long as there are so many, every place is taken
        seconds += more * float(lengths.mean()) * (fixed / places + slope)
    return seconds


class _Steps:
    """Runs answers through the places, each a token a step; a place that gets free takes the next one."""

    def __init__(self, running: np.ndarray, waiting: np.ndarray, places: int) -> None:
        ends = running.tolist()
        heapq.heapify(ends)
        queue = iter(waiting.tolist())
        for length in queue:
            if len(ends) < places:
                heapq.heappush(ends, length)
            else:
                heapq.heapreplace(ends, ends[0] + length)
        self.count = max(ends, default=0.0)
        self.tokens = float(running.sum() + waiting.sum())
