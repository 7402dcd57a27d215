"""How far a run is and how it does: a view on a terminal, a log line every half minute elsewhere, measured lines."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from runner.report.cards import ModelShape
from runner.report.guard import QualityGuard
from runner.report.meter import Meter
from runner.report.metrics import MetricsLog
from runner.report.scrapes import ScrapePoint
from runner.report.throughput import WINDOW_SECONDS, duration
from runner.report.view import TerminalView, log_line
from runner.types import EngineStats, RowResult

__all__ = ["WINDOW_SECONDS", "Progress", "duration"]

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0
VIEW_SECONDS = 1.0


class Progress:
    """Counts what finishes and shows it with the engine's state; ``show`` is cheap to call at every step."""

    def __init__(
        self,
        total_rows: int,
        done_rows: int,
        max_tokens: int,
        stream: TextIO | None = None,
        *,
        max_num_seqs: int = 1024,
        shape: ModelShape | None = None,
        guard: QualityGuard | None = None,
        metrics: MetricsLog | None = None,
        metrics_seconds: float = 5.0,
        scrapes: ScrapePoint | None = None,
    ) -> None:
        """``shape`` is what the model costs, where that is known: without it nothing is said of the card's use."""
        stream = sys.stderr if stream is None else stream
        self._meter = Meter(total_rows, done_rows, max_tokens, max_num_seqs, shape)
        self._guard = guard or QualityGuard()
        self._metrics = metrics
        self._metrics_seconds = metrics_seconds
        self._scrapes = scrapes
        self._view = TerminalView(stream) if stream.isatty() else None
        self._stats = EngineStats()
        self._next_shown = time.monotonic() + (0.0 if self._view else LOG_SECONDS)
        self._next_metrics = time.monotonic() + metrics_seconds

    @property
    def completion_tokens(self) -> int:
        """Of the samples that finished in this run."""
        return self._meter.lengths.tokens

    def enter(self, phase: str) -> None:
        """What the run does from now on; one of `runner.report.usage.PHASES`."""
        self._meter.phases.enter(phase)

    def add_taken(self, num_rows: int, num_samples: int) -> None:
        """So many rows were read, and so many samples of them are to be generated."""
        self._meter.add_taken(num_rows, num_samples)

    def add_sample(self, completion_tokens: int) -> None:
        self._meter.lengths.add(completion_tokens)

    def add_row(self, result: RowResult) -> None:
        self._meter.add_row(result)

    def show(self, stats: EngineStats) -> None:
        """Shows the state and writes a line of metrics, each if it is time to."""
        now = time.monotonic()
        self._stats = stats
        self._meter.note(now, stats)
        if now >= self._next_metrics:
            self._next_metrics = now + self._metrics_seconds
            self._measure("sample")
        if now >= self._next_shown:
            self._next_shown = now + (VIEW_SECONDS if self._view else LOG_SECONDS)
            self._show()

    def close(self) -> None:
        self._measure("end")
        if self._view is not None:
            self._show()
            self._view.close()
        if self._scrapes is not None:
            self._scrapes.close()

    def _show(self) -> None:
        seen = self._meter.snapshot(time.monotonic(), self._stats, self._guard.rates)
        if self._view is None:
            logger.info("%s", log_line(seen))
        else:
            self._view.draw(seen)

    def _measure(self, kind: str) -> None:
        """A line of metrics, and the figures for the next scrape."""
        if self._metrics is None and self._scrapes is None:
            return
        seen = self._meter.snapshot(time.monotonic(), self._stats, self._guard.rates, "metrics")
        seen["quality_totals"] = self._guard.totals
        if self._metrics is not None:
            self._metrics.append({"kind": kind, **seen})
        if self._scrapes is not None:
            self._scrapes.show(seen)
