"""Streams, events and buffers: the only way in which the engine orders host and device work.

A step touches four kinds of double-buffered memory: pinned input (host -> H2D), device input (H2D ->
compute), device output (compute -> D2H) and pinned output (D2H -> host). Every operation names the buffers
that it reads and writes, so that the CPU stand-in can prove that events order each pair of conflicting
accesses. Everything else on the device (slot state, KV cache, weights) is touched by computations alone. Those of
`compute` and of `prompts` have slots and blocks of their own, but for what `ModelRunner` puts in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch


class Buffer(ABC):
    """A fixed piece of int32 memory, pinned on the host or on the device."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.name = name
        self.tensor = tensor  # [size] int32; only operations that declare the buffer may touch it

    @abstractmethod
    def host_write(self) -> np.ndarray:
        """The memory for the host to fill; valid once no enqueued operation still reads it."""

    @abstractmethod
    def host_read(self) -> np.ndarray:
        """The memory for the host to read; valid once the host has waited for the operation that wrote it."""


class Event(ABC):
    """A point in a stream."""

    @abstractmethod
    def synchronize(self) -> None:
        """Blocks the host until the stream has passed this point."""

    @abstractmethod
    def has_passed(self) -> bool:
        """Whether the host need not wait."""

    @abstractmethod
    def seconds_since(self, earlier: Event) -> float:
        """Device time between two points that the host knows to be passed."""


class Stream(ABC):
    """An in-order queue of device work."""

    name: str

    @abstractmethod
    def enqueue(
        self, operation: Callable[[], None], reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = ()
    ) -> None:
        """Queues work. Host values that the operation captures must not change afterwards."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Work queued later starts only after the event."""

    @abstractmethod
    def record(self) -> Event:
        """An event behind all work queued so far."""


class Device(ABC):
    """One accelerator, or the CPU standing in for one."""

    torch_device: torch.device
    h2d: Stream
    compute: Stream
    d2h: Stream
    prompts: Stream  # a second queue of computations

    @abstractmethod
    def host_buffer(self, name: str, size: int) -> Buffer:
        """Pinned host memory of ``size`` int32."""

    @abstractmethod
    def device_buffer(self, name: str, size: int) -> Buffer:
        """Device memory of ``size`` int32."""

    @abstractmethod
    def leaving_room(self) -> AbstractContextManager[None]:
        """Within an operation: what it computes leaves room on the device for another stream's."""

    @abstractmethod
    def synchronize(self) -> None:
        """Blocks the host until all streams are empty."""

    @abstractmethod
    def discard(self) -> None:
        """After an operation failed: forgets what has not run and gives cached memory back."""
