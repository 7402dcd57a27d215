"""The engine's counters over the last minute: tokens a second, and stretches of time for whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

from runner.types import EngineStats

READING_SECONDS = 1.0
WINDOW_SECONDS = 60.0


class Reading(NamedTuple):
    """The engine's counters at the moment they arrived, and the seconds of each of this process's phases by then."""

    at: float  # monotonic
    stats: EngineStats
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second over the last minute."""

    prompt: float = 0.0
    completion: float = 0.0


class Readings:
    """Those of the last minute, one a second. Counters come in bursts: shares are taken between two arrivals."""

    def __init__(self) -> None:
        self._kept: deque[Reading] = deque()
        self.latest: Reading | None = None

    def add(self, now: float, stats: EngineStats, phases: Mapping[str, float]) -> bool:
        """Takes counters that have just arrived; True when they are kept for the window.

        A new engine, whose counters are lower, starts a new window.
        """
        if self.latest is not None and stats.steps < self.latest.stats.steps:
            self._kept.clear()
        self.latest = Reading(now, copy(stats), phases)
        if self._kept and now - self._kept[-1].at < READING_SECONDS:
            return False
        self._kept.append(self.latest)
        while now - self._kept[0].at > WINDOW_SECONDS:
            self._kept.popleft()
        return True

    def since(self, seconds: float) -> Reading | None:
        """The oldest reading of the last ``seconds``; None before there is any."""
        if self.latest is None:
            return None
        return next((kept for kept in self._kept if self.latest.at - kept.at <= seconds), self.latest)

    def rates(self) -> Rates:
        """Zero until there are two readings."""
        first, last = self.since(WINDOW_SECONDS), self.latest
        if first is None or last is None or last.at <= first.at:
            return Rates()
        seconds = last.at - first.at
        return Rates(
            (last.stats.prompt_tokens - first.stats.prompt_tokens) / seconds,
            (last.stats.completion_tokens - first.stats.completion_tokens) / seconds,
        )

    def most_running(self) -> int:
        """The most sequences that ran at once in the window."""
        return max((kept.stats.num_running for kept in self._kept), default=0)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
