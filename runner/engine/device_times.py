"""Where the device's time goes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from runner.engine.device import Event


@dataclass(slots=True)
class DeviceTimes:
    """Seconds since the start, by kind of step."""

    prefill: float = 0.0
    decode: float = 0.0
    idle: float = 0.0
    _token: float = inf  # of a prompt, in the fastest step
    _last: Event | None = None

    def add(self, begin: Event, end: Event, num_prefill_tokens: int, num_decode: int) -> None:
        """Counts a step whose results are in; steps come in their order.

        Of a step with both, prompts get what they take alone and rows the rest.
        """
        seconds = prefill = end.seconds_since(begin)
        if num_prefill_tokens:
            self._token = min(self._token, seconds / num_prefill_tokens)
        if num_decode:
            prefill = min(seconds, self.expected(num_prefill_tokens))
        self.prefill += prefill
        self.decode += seconds - prefill
        if self._last is not None:
            self.idle += begin.seconds_since(self._last)
        self._last = end

    def expected(self, num_prefill_tokens: int) -> float:
        """Of a prefill step at least, by the fastest before it; 0 without any."""
        return 0.0 if self._token == inf else self._token * num_prefill_tokens

    def pause(self) -> None:
        """There was no work until now: that is not the device idling between steps."""
        self._last = None
