"""The CPU stand-in: runs queued work as late as the ordering rules allow, and finds races.

An operation runs only when something waits for it, so a value that is read without its event is really
not there yet. Vector clocks (Mattern, 1989) over host and streams decide for each access whether events order
it against the earlier accesses of the same buffer; an unordered pair raises `RaceError` at the call that made it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from runner.engine.device.base import Buffer, Device, Event, Stream

POISON = -0x5A5A5A5B
Clock = dict[str, int]
_HOST = "host"
_VAIN_LOOKS = 3


class RaceError(AssertionError):
    """Two accesses of one buffer that no event orders, or a read of memory that nothing wrote."""


@dataclass
class _Access:
    actor: str
    time: int


@dataclass
class _History:
    last_write: _Access | None = None
    reads: dict[str, _Access] = field(default_factory=dict)


def _join(clock: Clock, other: Clock) -> None:
    for actor, ticks in other.items():
        clock[actor] = max(clock.get(actor, 0), ticks)


class _Checker:
    """Clocks of all actors, and who touched which buffer when."""

    def __init__(self) -> None:
        self.clocks: dict[str, Clock] = {}
        self._history: dict[str, _History] = {}

    def tick(self, actor: str) -> Clock:
        clock = self.clocks.setdefault(actor, {})
        clock[actor] = clock.get(actor, 0) + 1
        return clock

    def access(self, actor: str, buffer: str, write: bool) -> None:
        history = self._history.setdefault(buffer, _History())
        clock = self.clocks.setdefault(actor, {})
        earlier = [history.last_write, *(history.reads.values() if write else ())]
        for other in earlier:
            if other is not None and other.actor != actor and clock.get(other.actor, 0) < other.time:
                verb = "writes" if write else "reads"
                raise RaceError(f"{actor} {verb} {buffer} before {other.actor} is known to be done with it")
        if not write and history.last_write is None:
            raise RaceError(f"{actor} reads {buffer}, which nothing has written")
        this = _Access(actor, clock.get(actor, 0))
        if write:
            self._history[buffer] = _History(last_write=this)
        else:
            history.reads[actor] = this


class CpuBuffer(Buffer):
    """Plain memory; every host access is checked, and what is handed out for writing is poisoned first."""

    def __init__(self, name: str, tensor: torch.Tensor, checker: _Checker) -> None:
        super().__init__(name, tensor)
        self._checker = checker
        self._view: np.ndarray = tensor.numpy()

    def host_write(self) -> np.ndarray:
        self._checker.tick(_HOST)
        self._checker.access(_HOST, self.name, write=True)
        self._view.fill(POISON)
        return self._view

    def host_read(self) -> np.ndarray:
        self._checker.tick(_HOST)
        self._checker.access(_HOST, self.name, write=False)
        return self._view


class CpuEvent(Event):
    def __init__(self, stream: CpuStream, position: int, clock: Clock) -> None:
        self.stream = stream
        self.position = position
        self.clock = clock
        self.passed_at: float | None = None
        self._looks = 0

    def synchronize(self) -> None:
        self.stream.run_to(self.position)
        _join(self.stream.checker.tick(_HOST), self.clock)

    def has_passed(self) -> bool:
        """As late as a program that only looks can be told: the first looks find it not yet passed."""
        self._looks += 1
        if self._looks <= _VAIN_LOOKS:
            return False
        self.synchronize()
        return True

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, CpuEvent)
        if self.passed_at is None or earlier.passed_at is None:
            raise RaceError("the time of an event is read before the event")
        return self.passed_at - earlier.passed_at

    def passes(self) -> None:
        self.passed_at = time.perf_counter()


class CpuStream(Stream):
    def __init__(self, name: str, checker: _Checker) -> None:
        self.name = name
        self.checker = checker
        self._queue: deque[Callable[[], None]] = deque()
        self._done = 0
        self._queued = 0

    def enqueue(
        self, operation: Callable[[], None], reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = ()
    ) -> None:
        clock = self.checker.tick(self.name)
        _join(clock, self.checker.tick(_HOST))  # the host queued it: all that the host has seen is done
        for buffer in reads:
            self.checker.access(self.name, buffer.name, write=False)
        for buffer in writes:
            self.checker.access(self.name, buffer.name, write=True)
        self._push(operation)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CpuEvent)
        _join(self.checker.tick(self.name), event.clock)
        self._push(lambda: event.stream.run_to(event.position))

    def record(self) -> CpuEvent:
        event = CpuEvent(self, self._queued + 1, dict(self.checker.tick(self.name)))
        self._push(event.passes)
        return event

    def run_to(self, position: int) -> None:
        while self._done < position:
            operation = self._queue.popleft()
            self._done += 1
            operation()

    def drain(self) -> None:
        self.run_to(self._queued)

    def clear(self) -> None:
        self._queue.clear()
        self._done = self._queued

    def _push(self, operation: Callable[[], None]) -> None:
        self._queue.append(operation)
        self._queued += 1


class CpuDevice(Device):
    """The stand-in; correct programs see no difference but that nothing overlaps."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self._checker = _Checker()
        self._streams = [CpuStream(name, self._checker) for name in ("h2d", "compute", "d2h", "prompts")]
        self.h2d, self.compute, self.d2h, self.prompts = self._streams

    def host_buffer(self, name: str, size: int) -> CpuBuffer:
        return self._buffer(name, size)

    def device_buffer(self, name: str, size: int) -> CpuBuffer:
        return self._buffer(name, size)

    def leaving_room(self) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self) -> None:
        for stream in self._streams:
            stream.drain()
            _join(self._checker.tick(_HOST), self._checker.clocks.get(stream.name, {}))

    def discard(self) -> None:
        for stream in self._streams:
            stream.clear()
        self.synchronize()

    def _buffer(self, name: str, size: int) -> CpuBuffer:
        return CpuBuffer(name, torch.full((size,), POISON, dtype=torch.int32), self._checker)
