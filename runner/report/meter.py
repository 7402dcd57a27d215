"""What is known of a run at a moment, as plain values: for the terminal, the log and metrics.jsonl alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from runner.report.throughput import Lengths, Throughput
from runner.types import EngineStats, RowResult

PHASES = ("prepare", "wait", "finish")
"""What this process does: read and render rows, wait for the engine, turn answers into rows and write them."""


class Phases:
    """Adds up the seconds of each phase; a switch costs one look at the clock."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._current = "prepare"
        self._since = time.perf_counter()

    def enter(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[self._current] += now - self._since
        self._current, self._since = name, now

    def totals(self) -> dict[str, float]:
        """Seconds of each so far."""
        self.enter(self._current)
        return dict(self._seconds)


def shares_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The share of each phase in the time between two totals."""
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    total = sum(spent.values())
    return {name: round(seconds / total, 4) if total else 0.0 for name, seconds in spent.items()}


class Meter:
    """Counts of this run. ``total_rows`` are all that there will be, ``done_rows`` were there before."""

    def __init__(self, total_rows: int, done_rows: int, max_tokens: int, max_num_seqs: int) -> None:
        self.total_rows, self.done_rows = total_rows, done_rows
        self.rows = self.failed_rows = 0
        self.errors: Counter[str] = Counter()
        self.lengths = Lengths(max_tokens)
        self.throughput = Throughput()
        self.phases = Phases()
        self.max_num_seqs = max_num_seqs
        self._began: float | None = None
        self._read: dict[str, dict[str, float]] = {}

    def add_row(self, result: RowResult) -> None:
        self.rows += 1
        self.failed_rows += bool(result.errors)
        self.errors.update(error.code for error in result.errors)

    def note(self, now: float, stats: EngineStats) -> None:
        """Takes the engine's counters at every step."""
        if self._began is None and (stats.steps or stats.num_running):
            self._began = now
        self.throughput.add(now, stats)

    def snapshot(self, stats: EngineStats, quality: Mapping[str, float], reader: str = "") -> dict[str, Any]:
        """Counts of this run so far, the engine's counters, tokens a second.

        Also the shares of the time since the last snapshot for this ``reader``.
        """
        now = time.monotonic()
        rates = self.throughput.rates()
        left = self.seconds_left(stats)
        spent = self.phases.totals()
        shares = shares_between(self._read.get(reader, {}), spent)
        self._read[reader] = spent
        seen = {
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
            "shares": shares,
            "quality": {name: round(rate, 4) for name, rate in quality.items()},
            "engine": asdict(stats),
        }
        return {**seen, "bottleneck": bottleneck(stats, shares, self.max_num_seqs, self.rows_left)}

    @property
    def rows_left(self) -> int:
        return self.total_rows - self.done_rows - self.rows

    def seconds_left(self, stats: EngineStats) -> float | None:
        samples_a_row = self.lengths.samples / self.rows if self.rows else 1.0
        running_tokens = max(stats.completion_tokens - self.lengths.tokens, 0)
        waiting = max(self.rows_left * samples_a_row - stats.num_running, 0.0)
        rate = self.throughput.rates().completion
        return self.lengths.seconds_left(waiting, stats.num_running, running_tokens, rate)


def bottleneck(stats: EngineStats, shares: Mapping[str, float], max_num_seqs: int, rows_left: int) -> str:
    """What to change first for more speed, from what is known; the first that holds."""
    busy = {"prepare": "reading and rendering rows", "finish": "reading answers and writing rows"}
    slowest = max(busy, key=lambda name: shares.get(name, 0.0))
    full = stats.kv_blocks_total and stats.kv_blocks_used >= 0.9 * stats.kv_blocks_total
    rules = (
        (not stats.steps and not stats.num_running, "the engine is loading its model"),
        (shares.get("wait", 0.0) < 0.3, f"this process, {busy[slowest]}: {shares.get(slowest, 0.0):.0%} of the time"),
        (
            bool(full and (stats.num_waiting or stats.preemptions)),
            f"the KV cache is full at {stats.num_running} sequences: give it more memory or shorter answers",
        ),
        (
            bool(stats.num_waiting) and stats.num_running >= max_num_seqs,
            f"the engine, with engine.max_num_seqs={max_num_seqs} sequences at once",
        ),
        (not stats.num_waiting and rows_left <= stats.num_running, f"the tail: the last {stats.num_running} answers"),
        (not stats.num_waiting and stats.num_running < max_num_seqs / 2, "too few rows reach the engine"),
    )
    return next((text for holds, text in rules if holds), "the engine")
