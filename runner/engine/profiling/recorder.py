"""Spans of time on the host and on the device's streams, on one clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from runner.engine.device import Device, Event

HOST = "host"
COMPUTE = "compute"
PROMPTS = "prompts"  # computed beside the rows of COMPUTE


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


@dataclass(frozen=True, slots=True)
class StepSpan(Span):
    """A step being computed."""

    step: Step = field(kw_only=True)


class Recorder:
    """Collects spans while it is on. Device spans are pairs of events, read once the device is idle."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.is_on = False
        self._spans: list[Span] = []
        self._operations: list[tuple[str, Event, Event]] = []
        self._steps: list[tuple[str, Event, Event, Step]] = []
        self._open = 0

    @property
    def num_steps(self) -> int:
        """Launched since the start."""
        return len(self._steps)

    def start(self) -> None:
        """Starts the clock at an idle device: an event and the host's time at it tie the two together."""
        self._spans, self._operations, self._steps, self._open = [], [], [], 0
        self.device.synchronize()
        self._zero = self.device.compute.record()
        self._zero.synchronize()
        self._began = time.perf_counter()
        self.is_on = True

    def stop(self) -> list[Span]:
        """Waits for the device; all spans since the start, in the order of theirs."""
        self.is_on = False
        self.device.synchronize()
        operations = [Span(lane, lane, *self._times(begin, end)) for lane, begin, end in self._operations]
        steps = [StepSpan(lane, lane, *self._times(begin, end), step=step) for lane, begin, end, step in self._steps]
        return sorted([*self._spans, *operations, *steps], key=lambda span: (span.start, span.depth))

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

    def add_operation(self, lane: str, begin: Event, end: Event) -> None:
        self._operations.append((lane, begin, end))

    def add_step(self, lane: str, begin: Event, end: Event, step: Step) -> None:
        self._steps.append((lane, begin, end, step))

    def _times(self, begin: Event, end: Event) -> tuple[float, float]:
        """Start and seconds."""
        return begin.seconds_since(self._zero), end.seconds_since(begin)
