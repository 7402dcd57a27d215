"""Where the device's time goes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from runner.engine.device import Event


@dataclass(slots=True)
class DeviceTimes:
    """Seconds since the start, by kind of step. Each second counts once, also where two steps share it."""

    prefill: float = 0.0
    decode: float = 0.0
    idle: float = 0.0
    _token: float = inf  # of a prompt, in the fastest step
    _shared: float = 0.0  # of rows beside prompts that are still in flight
    _last: Event | None = None  # when the device had done all that is counted

    def add_rows(self, begin: Event, end: Event, beside: bool) -> None:
        """Counts a step of rows whose results are in; ``beside``: there are prompts in flight."""
        gap, seconds = self._advance(begin, end)
        if beside:
            self._shared += gap + seconds
        else:
            self.decode += seconds
            self.idle += gap

    def add_prompts(self, begin: Event, end: Event, num_tokens: int) -> None:
        """Counts a step of prompts whose results are in.

        Of what they shared with rows, prompts get what they take alone and rows the rest.
        """
        alone = not self._shared and (self._last is None or begin.seconds_since(self._last) >= 0)
        gap, seconds = self._advance(begin, end)
        self.idle += gap
        if alone:
            self._token = min(self._token, seconds / num_tokens)
            self.prefill += seconds
            return
        total, self._shared = self._shared + seconds, 0.0
        prefill = min(total, self.expected(num_tokens))
        self.prefill += prefill
        self.decode += total - prefill

    def expected(self, num_prefill_tokens: int) -> float:
        """Of a prefill step at least, by the fastest before it; 0 without any."""
        return 0.0 if self._token == inf else self._token * num_prefill_tokens

    def lose_prompts(self) -> None:
        """Those in flight failed and will not be counted."""
        self.decode += self._shared
        self._shared = 0.0

    def pause(self) -> None:
        """There was no work until now: that is not the device idling between steps."""
        self._last = None

    def _advance(self, begin: Event, end: Event) -> tuple[float, float]:
        """(seconds without work before a step, seconds of it that are not counted yet)."""
        last, seconds = self._last, end.seconds_since(begin)
        gap = 0.0 if last is None else begin.seconds_since(last)
        if gap + seconds <= 0:
            return 0.0, 0.0
        self._last = end
        return max(gap, 0.0), seconds + min(gap, 0.0)
