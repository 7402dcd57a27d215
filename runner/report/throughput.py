"""Tokens a second, and how long the rest will take, from the engine's counters and the answers seen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runner.types import EngineStats

SAMPLE_SECONDS = 1.0
WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second over the last minute."""

    prompt: float = 0.0
    completion: float = 0.0


class Throughput:
    """Rates over a sliding window of the engine's counters."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()  # seconds, prompt tokens, completion tokens

    def add(self, now: float, stats: EngineStats) -> None:
        """Takes a snapshot, at most one a second; a new engine, whose counters are lower, starts a new window."""
        if self._seen and stats.completion_tokens < self._seen[-1][2]:
            self._seen.clear()
        if self._seen and now - self._seen[-1][0] < SAMPLE_SECONDS:
            return
        self._seen.append((now, stats.prompt_tokens, stats.completion_tokens))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def rates(self) -> Rates:
        """Zero until there are two snapshots."""
        if len(self._seen) < 2:
            return Rates()
        (then, *before), (now, *after) = self._seen[0], self._seen[-1]
        prompt, completion = ((b - a) / (now - then) for a, b in zip(before, after, strict=True))
        return Rates(prompt, completion)


class Lengths:
    """The completion lengths seen so far; what is left is estimated from them, not from rows a second.

    Short answers finish first, so the plain mean of the finished ones is too low for long. Tokens made, those of
    unfinished answers included, over answers finished is the mean of a memoryless distribution under that
    censoring. ``limit`` is the longest that an answer may get.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.samples = 0
        self.tokens = 0
        self.longest = 0

    def add(self, tokens: int) -> None:
        self.samples += 1
        self.tokens += tokens
        self.longest = max(self.longest, tokens)

    def seconds_left(self, num_waiting: float, num_running: int, running_tokens: int, rate: float) -> float | None:
        """Seconds until all are done; None before anything is known.

        ``num_waiting`` samples have not begun, ``num_running`` have made ``running_tokens`` together; ``rate`` is
        tokens a second. The last to finish may be as long as the longest seen, at one sequence's share of the rate.
        """
        if not self.samples or rate <= 0:
            return None
        mean = min((self.tokens + running_tokens) / self.samples, self._limit)
        age = running_tokens / max(num_running, 1)
        to_go = min(mean, max(self._limit - age, 0.0))
        last = self.longest if num_waiting > 0 else max(self.longest - age, to_go)
        return max(num_running * to_go + num_waiting * mean, last * num_running) / rate


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
