"""Spans of time on the host and on the device's streams, on one clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runner.engine.device import Device, Event

HOST = "host"
COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """``start`` and ``seconds`` on the recording's clock; ``lane`` is the host or a stream; ``depth`` nests stages."""

    lane: str
    name: str
    start: float
    seconds: float
    depth: int = 0

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True, slots=True)
class Step:
    """What one step was asked to do: rows that decode, their tokens in the cache, tokens of prompts, rows sampled."""

    decode_rows: int
    context_tokens: int
    prompt_tokens: int
    sampled: int


class Recorder:
    """Collects steps and spans while it is on. Device spans are pairs of events, read once the device is idle."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.is_on = False
        self.steps: list[Step] = []
        self._spans: list[Span] = []
        self._events: list[tuple[str, Event, Event]] = []
        self._open = 0

    def start(self) -> None:
        """Starts the clock at an idle device: an event and the host's time at it tie the two together."""
        self.steps, self._spans, self._events, self._open = [], [], [], 0
        self.device.synchronize()
        self._zero = self.device.compute.record()
        self._zero.synchronize()
        self._began = time.perf_counter()
        self.is_on = True

    def stop(self) -> tuple[list[Step], list[Span]]:
        """Waits for the device; the steps launched since the start, and all spans in the order of their start."""
        self.is_on = False
        self.device.synchronize()
        device = [
            Span(stream, stream, begin.seconds_since(self._zero), end.seconds_since(begin))
            for stream, begin, end in self._events
        ]
        return self.steps, sorted(self._spans + device, key=lambda span: (span.start, span.depth))

    @contextmanager
    def host(self, name: str) -> Iterator[None]:
        """A stage of the host's work; stages may lie in one another."""
        if not self.is_on:
            yield
            return
        depth, self._open = self._open, self._open + 1
        started = time.perf_counter()
        try:
            yield
        finally:
            self._open = depth
            self._spans.append(Span(HOST, name, started - self._began, time.perf_counter() - started, depth))

    def on_stream(self, name: str, begin: Event, end: Event) -> None:
        self._events.append((name, begin, end))
