"""CUDA streams and events, none of them the default stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from runner.engine.device.base import Buffer, Device, Event, Stream
from runner.engine.device.products import products_on

# With all multiprocessors a product leaves nothing to the other stream. Of those of an H100, 92 were best for both:
# its power limits large products, so that they lose less by it than the others gain.
_SHARE_BESIDE = 0.7


class CudaBuffer(Buffer):
    def host_write(self) -> np.ndarray:
        return self.tensor.numpy()

    def host_read(self) -> np.ndarray:
        return self.tensor.numpy()


class CudaEvent(Event):
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True, blocking=True)  # a blocking wait does not spin a core
        self.event.record(stream)

    def synchronize(self) -> None:
        self.event.synchronize()

    def has_passed(self) -> bool:
        return self.event.query()

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, CudaEvent)
        return float(earlier.event.elapsed_time(self.event)) / 1e3


class CudaStream(Stream):
    def __init__(self, name: str, device: torch.device, priority: int = 0) -> None:
        self.name = name
        self.stream = torch.cuda.Stream(device, priority=priority)

    def enqueue(
        self, operation: Callable[[], None], reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = ()
    ) -> None:
        # Not torch.cuda.stream(...): Python of its own, which a step would pay three times. But a stream is not entered
        # twice: no operation enqueues another on its own stream.
        with self.stream:
            operation()

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self.stream.wait_event(event.event)

    def record(self) -> CudaEvent:
        return CudaEvent(self.stream)


class CudaDevice(Device):
    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        self.h2d = CudaStream("h2d", self.torch_device)
        self.compute = CudaStream("compute", self.torch_device)
        self.d2h = CudaStream("d2h", self.torch_device, priority=-1)
        self.prompts = CudaStream("prompts", self.torch_device)
        count = torch.cuda.get_device_properties(self.torch_device).multi_processor_count
        self._products_beside = int(count * _SHARE_BESIDE)

    def host_buffer(self, name: str, size: int) -> CudaBuffer:
        return CudaBuffer(name, torch.empty(size, dtype=torch.int32, pin_memory=True))

    def device_buffer(self, name: str, size: int) -> CudaBuffer:
        return CudaBuffer(name, torch.empty(size, dtype=torch.int32, device=self.torch_device))

    def leaving_room(self) -> AbstractContextManager[None]:
        return products_on(self._products_beside)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def discard(self) -> None:
        self.synchronize()
        torch.cuda.empty_cache()
