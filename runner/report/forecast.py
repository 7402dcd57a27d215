"""How long the rest of a run takes: what is left, run through the places of the engine at the speed of its steps.

Rows a second say nothing of the tail: the bulk keeps every place of a batch busy, the last long answers run alone.
"""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from dataclasses import dataclass

import numpy as np

from runner.report.lengths import Running, Survival
from runner.report.throughput import Reading

_DECAY = 0.98  # of what is known of the speed, at each reading: about the last minute counts
_GAPS = 60  # readings that the usual gap between two steps is taken from
_ASSUMED_FIXED = 0.5  # of a step's time, whatever the batch: until batches of several sizes were seen
_ASSUMED_WEIGHT = 0.01
_ROUNDS = 4  # of all places, that are run through one by one; more take their share of time


@dataclass(frozen=True)
class CardSpeed:
    """Seconds that a card takes at least, by its data sheet."""

    step: float  # one step, without a sequence
    token: float  # a token of cache, at each step that reads it
    reached: float  # share of this speed that runs reach


class StepCost:
    """Seconds of a step as a line over its load, fitted to readings; prompts are apart.

    The load of a step is the tokens of cache that it reads; of an engine that does not count them, its sequences. Each
    reading counts by its steps, and as far as the device did not read prompts: there steps last long, and what happens
    once (captures of graphs, compilers) mostly happens there. Gaps between steps count as the usual one for the same
    reason.
    """

    def __init__(self) -> None:
        self._weight = self._load = self._seconds = self._squares = self._products = 0.0
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self.counts_cache = True

    def add(self, before: Reading, after: Reading) -> None:
        """The stretch between two readings of one engine."""
        old, new = before.stats, after.stats
        steps = new.steps - old.steps
        prefill, decode = new.prefill_seconds - old.prefill_seconds, new.decode_seconds - old.decode_seconds
        gap = after.at - before.at - prefill - decode
        if steps <= 0:
            return
        if prefill <= 0 and decode <= 0:  # a device that keeps no time
            decode, gap = gap, 0.0
        if decode <= 0:
            return
        self._gaps.append(max(gap, 0.0) / steps)
        cached = new.kv_tokens_read - old.kv_tokens_read
        self.counts_cache = cached > 0
        load = (cached or new.completion_tokens - old.completion_tokens) / steps
        self._learn(steps * decode / (prefill + decode), load, decode / steps)

    def _learn(self, weight: float, load: float, seconds: float) -> None:
        sums = (1.0, load, seconds, load * load, load * seconds)
        old = (self._weight, self._load, self._seconds, self._squares, self._products)
        self._weight, self._load, self._seconds, self._squares, self._products = (
            _DECAY * a + weight * b for a, b in zip(old, sums, strict=True)
        )

    @property
    def is_known(self) -> bool:
        return self._weight > 0 and self._load > 0

    def line(self, card: CardSpeed | None) -> tuple[float, float]:
        """(seconds of a step without a load, more for each of it); neither is negative.

        Where one load only has been seen, what the card takes for none or a share of the time has to stand in.
        """
        mean_load, mean_seconds = self._load / self._weight, self._seconds / self._weight
        assumed = _ASSUMED_WEIGHT * self._weight
        weight, load = self._weight + assumed, self._load
        empty = _ASSUMED_FIXED * mean_seconds if card is None else min(card.step, mean_seconds)
        seconds = self._seconds + assumed * empty  # one more observation, made up
        spread = weight * self._squares - load * load
        slope = (weight * self._products - load * seconds) / spread if spread > 0 else 0.0
        slope = min(max(slope, 0.0), mean_seconds / mean_load)
        return mean_seconds - slope * mean_load + statistics.median(self._gaps), slope


@dataclass(frozen=True)
class Rest:
    """What is left: answers not begun, and those that run; ``places`` for them in the engine."""

    num_waiting: float
    running: Running
    places: int
    prompt_tokens: float = 0.0  # of an answer, in the mean
    longest_waiting: float | None = None  # tokens, where that is known: then the longest start first


def seconds_left(
    rest: Rest, survival: Survival, cost: StepCost, prefill_seconds: float, card: CardSpeed | None = None
) -> float | None:
    """``prefill_seconds`` is what one answer's prompt takes; None while the speed of a step is not known.

    Before the first step without prompts, it is what ``card`` reaches.
    """
    if cost.is_known:
        fixed, slope = cost.line(card)
    elif card is not None:
        fixed, slope = card.step / card.reached, card.token / card.reached
    else:
        return None
    places = max(rest.places, len(rest.running.made), 1)
    drawn = min(round(rest.num_waiting), _ROUNDS * places)
    more = rest.num_waiting - drawn
    lengths, rests = survival.draw(drawn, rest.longest_waiting), survival.draw_rest(rest.running)
    prompt = rest.prompt_tokens if cost.counts_cache else None
    load = _load(lengths, prompt)
    seconds = _num_steps(rests, lengths, places) * fixed + rest.num_waiting * prefill_seconds
    seconds += slope * float(_load(rests, None if prompt is None else prompt + rest.running.made).sum() + load.sum())
    if more > 0:  # as long as there are so many, every place is taken
        seconds += more * (float(lengths.mean()) * fixed / places + slope * float(load.mean()))
    return seconds


def _load(tokens: np.ndarray, cached: np.ndarray | float | None) -> np.ndarray:
    """Of all steps that make so many ``tokens`` of each answer behind those ``cached``; None: a sequence is one."""
    return tokens if cached is None else tokens * (cached + tokens / 2)


def _num_steps(running: np.ndarray, waiting: np.ndarray, places: int) -> float:
    """Runs answers through the places, each a token a step; a place that gets free takes the next one."""
    ends = running.tolist()
    heapq.heapify(ends)
    for length in waiting.tolist():
        if len(ends) < places:
            heapq.heappush(ends, length)
        else:
            heapq.heapreplace(ends, ends[0] + length)
    return max(ends, default=0.0)
