"""How far a run is: a bar on a terminal, a log line every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from runner.types import EngineStats

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0
BAR_SECONDS = 0.5
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


class Progress:
    """Counts rows and lengths and shows them with the engine's state; ``show`` is cheap to call at every step."""

    def __init__(self, total_rows: int, done_rows: int, max_tokens: int, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._done = total_rows, done_rows
        self._rows = self._errors = 0
        self._lengths = Lengths(max_tokens)
        self._throughput = Throughput()
        self._bar = self._open_bar() if self._stream.isatty() else None
        self._next = time.monotonic() + (0.0 if self._bar is not None else LOG_SECONDS)

    @property
    def completion_tokens(self) -> int:
        """Of the samples that finished in this run."""
        return self._lengths.tokens

    def add_sample(self, completion_tokens: int) -> None:
        self._lengths.add(completion_tokens)

    def add_row(self, failed: bool) -> None:
        self._rows += 1
        self._errors += failed

    def show(self, stats: EngineStats) -> None:
        """Writes the state if it is time to."""
        now = time.monotonic()
        self._throughput.add(now, stats)
        if now < self._next:
            return
        self._next = now + (BAR_SECONDS if self._bar is not None else LOG_SECONDS)
        text = self._text(stats)
        if self._bar is None:
            logger.info("%d/%d rows, %s", self._done + self._rows, self._total, text)
            return
        self._bar.set_postfix_str(text, refresh=False)
        self._paint(self._bar)

    def close(self) -> None:
        if self._bar is not None:
            self._paint(self._bar)
            self._bar.close()

    def _paint(self, bar: tqdm) -> None:
        """Not tqdm's own update, which draws nothing while no row has finished."""
        bar.n = self._done + self._rows
        bar.refresh()

    def _open_bar(self) -> tqdm:
        layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} rows, {elapsed}{postfix}"
        return tqdm(
            total=self._total, initial=self._done, file=self._stream, dynamic_ncols=True, bar_format=layout, leave=True
        )

    def _text(self, stats: EngineStats) -> str:
        rates = self._throughput.rates()
        parts = [
            f"{rates.prompt:,.0f} in + {rates.completion:,.0f} out tok/s",
            f"{stats.num_running} running, {stats.num_waiting} waiting",
        ]
        if stats.kv_blocks_total:
            parts.append(f"KV {stats.kv_blocks_used / stats.kv_blocks_total:.0%}")
        if self._errors:
            parts.append(f"{self._errors} failed")
        left = self._seconds_left(stats, rates)
        if left is not None:
            parts.append(f"ETA {duration(left)}")
        return ", ".join(parts)

    def _seconds_left(self, stats: EngineStats, rates: Rates) -> float | None:
        samples_a_row = self._lengths.samples / self._rows if self._rows else 1.0
        left = (self._total - self._done - self._rows) * samples_a_row
        running_tokens = max(stats.completion_tokens - self._lengths.tokens, 0)
        waiting = max(left - stats.num_running, 0.0)
        return self._lengths.seconds_left(waiting, stats.num_running, running_tokens, rates.completion)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
