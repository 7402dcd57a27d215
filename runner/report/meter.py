"""What is known of a run at a moment, as plain values: for the terminal, the log, metrics.jsonl and scrapes alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from runner.report import forecast
from runner.report.bottleneck import bottleneck
from runner.report.cards import ModelShape, card_of_device
from runner.report.lengths import Lengths, Running
from runner.report.throughput import Reading, Readings
from runner.report.usage import PHASES, Usage, shares_between, usage_between
from runner.types import EngineStats, RowResult

RECENT_SECONDS = 30.0  # that a view's shares are taken over
_COUNTERS = tuple(item.name for item in fields(EngineStats) if not item.name.startswith("running_"))


class Phases:
    """Adds up the seconds of each phase; a switch costs one look at the clock."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._current = PHASES[0]
        self._since = time.perf_counter()

    def enter(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[self._current] += now - self._since
        self._current, self._since = name, now

    def totals(self) -> dict[str, float]:
        """Seconds of each so far."""
        self.enter(self._current)
        return dict(self._seconds)


class Meter:
    """Counts of this run. ``total_rows`` are all that there will be, ``done_rows`` were there before.

    ``shape`` is what a step of the model costs, if that is known.
    """

    def __init__(
        self, total_rows: int, done_rows: int, max_tokens: int, max_num_seqs: int, shape: ModelShape | None = None
    ) -> None:
        self.total_rows, self.done_rows = total_rows, done_rows
        self.rows = self.failed_rows = 0
        self.errors: Counter[str] = Counter()
        self.lengths = Lengths(max_tokens)
        self.readings = Readings()
        self.phases = Phases()
        self.max_num_seqs = max_num_seqs
        self._shape = shape
        self._cost = forecast.StepCost()
        self._costed: Reading | None = None
        self._taken_rows = self._taken_samples = 0
        self._began: float | None = None
        self._rows_before = 0  # that were done when the clock began: an engine may answer a whole batch at once
        self._most_running = 0
        self._steps: int | None = None
        self._told: dict[str | None, tuple[Reading, Usage, dict[str, float]]] = {}

    def add_taken(self, num_rows: int, num_samples: int) -> None:
        """Rows were taken up from the input; so many samples of them are to be generated."""
        self._taken_rows += num_rows
        self._taken_samples += num_samples

    def add_row(self, result: RowResult) -> None:
        self.rows += 1
        if result.errors:
            self.failed_rows += 1
            self.errors.update(error.code for error in result.errors)

    def note(self, now: float, stats: EngineStats) -> None:
        """Looks at the engine's counters, at every step; most times they have not changed."""
        if stats.steps == self._steps or not (stats.steps or stats.num_running):
            return
        self._steps = stats.steps
        self._most_running = max(self._most_running, stats.num_running)
        if self._began is None:
            self._begin(now, stats)
        if self.readings.add(now, stats, self.phases.totals()):
            latest = self.readings.latest
            if latest is not None and self._costed is not None:
                self._cost.add(self._costed, latest)
            self._costed = latest

    def _begin(self, now: float, stats: EngineStats) -> None:
        """The clock begins with the first step, whose counters come when it is over: it may have read many prompts."""
        worked = stats.prefill_seconds + stats.decode_seconds
        self._began, self._rows_before = now - worked, self.rows
        if worked:
            phases = self.phases.totals()
            phases["wait"] = max(phases["wait"] - worked, 0.0)
            self.readings.add(self._began, EngineStats(device=stats.device), phases)

    def snapshot(
        self, now: float, stats: EngineStats, quality: Mapping[str, float], reader: str | None = None
    ) -> dict[str, Any]:
        """Counts of this run so far, the engine's counters, tokens a second.

        Also shares of the time since the last snapshot for this ``reader``; without one, of the latest half minute.
        """
        rates = self.readings.rates()
        usage, phases = self._shares(reader, stats.device)
        left_by_rows = self.seconds_left_by_rows(now)
        # An engine in which nothing was ever seen running answers at once: its steps say nothing of the time.
        left = self.seconds_left(stats) if self.readings.most_running() else left_by_rows
        return {
            "rows": self.rows,
            "done_rows": self.done_rows + self.rows,
            "total_rows": self.total_rows,
            "failed_rows": self.failed_rows,
            "errors": dict(self.errors),
            "samples": self.lengths.samples,
            "finished_tokens": self.lengths.tokens,
            "longest_answer": self.lengths.longest,
            "generating_seconds": round(now - self._began, 6) if self._began is not None else 0.0,
            "prompt_tokens_per_second": round(rates.prompt, 1),
            "completion_tokens_per_second": round(rates.completion, 1),
            "seconds_left": None if left is None else round(left, 1),
            "seconds_left_by_rows": None if left_by_rows is None else round(left_by_rows, 1),
            "batch_fill": round(stats.num_running / self.max_num_seqs, 4),
            "usage": asdict(usage),
            "phases": phases,
            "quality": {name: round(rate, 4) for name, rate in quality.items()},
            "engine": {name: getattr(stats, name) for name in _COUNTERS},
            "bottleneck": bottleneck(stats, phases, usage, self.max_num_seqs, self.rows_left, self._most_running),
        }

    @property
    def rows_left(self) -> int:
        return self.total_rows - self.done_rows - self.rows

    def seconds_left(self, stats: EngineStats) -> float | None:
        """From the lengths of the answers so far; None before anything is known."""
        running = Running.of(stats.running_lengths, stats.running_limits, stats.running_certain)
        survival = self.lengths.survival(running)
        if survival is None:
            return None
        waiting = max(self._samples_left() - len(running.made), 0.0)
        begun = max(self.lengths.samples + stats.num_running, 1)
        prompt = (stats.prompt_tokens + stats.cached_tokens) / begun
        longest = running.longest_next if self._taken_rows >= self.total_rows - self.done_rows else None
        rest = forecast.Rest(waiting, running, self._places(stats), prompt, longest)
        return forecast.seconds_left(rest, survival, self._cost, stats.prefill_seconds / begun, self._speed(stats))

    def _places(self, stats: EngineStats) -> int:
        """As many as have run at once; before the first step without prompts the engine still fills up."""
        most = self.readings.most_running()
        if self._cost.is_known:
            return most
        filled = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        return max(most, min(self.max_num_seqs, int(stats.num_running / filled) if filled else self.max_num_seqs))

    def _speed(self, stats: EngineStats) -> forecast.CardSpeed | None:
        card, shape = card_of_device(stats.device), self._shape
        if shape is None or card is None:
            return None
        step, token = shape.bytes_read(1, 0) / card.bandwidth, shape.bytes_read(0, 1) / card.bandwidth
        return forecast.CardSpeed(step, token, card.reached[1])

    def seconds_left_by_rows(self, now: float) -> float | None:
        """As if the rows left came at the rate of those done: too little wherever answers have a long tail."""
        timed_rows = self.rows - self._rows_before
        if self._began is None or not timed_rows:
            return None
        return (now - self._began) / timed_rows * self.rows_left

    def _samples_left(self) -> float:
        """Of the rows that were taken up, and of those that were not, as many each as the others had."""
        untaken = max(self.total_rows - self.done_rows - self._taken_rows, 0)
        each = self._taken_samples / self._taken_rows if self._taken_rows else 1.0
        return max(self._taken_samples - self.lengths.samples, 0) + untaken * each

    def _shares(self, reader: str | None, device: str) -> tuple[Usage, dict[str, float]]:
        """Of the stretch since a reader's last snapshot; before the engine's first step only the phases.

        A reader that comes again before the counters have changed is told the same again.
        """
        latest = self.readings.latest
        if latest is None:
            return Usage(), shares_between({}, self.phases.totals())
        told = self._told.get(reader)
        if told is not None and told[0].at == latest.at:
            return told[1:]
        before = self.readings.since(float("inf") if reader else RECENT_SECONDS) or latest
        if reader and told is not None and told[0].stats.steps <= latest.stats.steps:
            before = told[0]
        usage = usage_between(before, latest, self._shape, card_of_device(device))
        phases = shares_between({} if before is latest else before.phases, latest.phases)
        self._told[reader] = latest, usage, phases
        return usage, phases
