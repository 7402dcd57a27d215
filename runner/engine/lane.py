"""A queue of steps on their way to the device and back, with double buffers of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from runner.engine.batch import Packet
from runner.engine.device import Buffer, Device, Event, Stream
from runner.engine.plan import StepPlan
from runner.engine.results import ResultLayout, StepResults
from runner.engine.sampler import Variant

NUM_BUFFERS = 2  # one pair is filled and read by the host while the device works on the other


@dataclass(slots=True)
class Launched:
    """A step on its way: its results are in ``buffer`` once ``event`` has passed."""

    plan: StepPlan
    variant: Variant
    layout: ResultLayout
    buffer: Buffer
    event: Event
    begin: Event  # of the step on its stream
    end: Event

    @property
    def is_done(self) -> bool:
        """Whether its results could be read without a wait."""
        return self.event.has_passed()

    def read(self) -> StepResults:
        """Waits for the step."""
        self.event.synchronize()
        return self.layout.read(self.buffer.host_read())


class Lane:
    """Steps in their order: packet in, work, results out. At most ``NUM_BUFFERS`` may be on their way."""

    def __init__(
        self, device: Device, name: str, streams: tuple[Stream, Stream, Stream], capacity: int, results: int
    ) -> None:
        """``streams`` bring packets of up to ``capacity`` int32 in, work, and bring up to ``results`` int32 out."""
        self._h2d, self.compute, self._d2h = streams
        host, on_device = device.host_buffer, device.device_buffer
        self._host_in = [host(f"{name}host_in{i}", capacity) for i in range(NUM_BUFFERS)]
        self._device_in = [on_device(f"{name}device_in{i}", capacity) for i in range(NUM_BUFFERS)]
        self._device_out = [on_device(f"{name}device_out{i}", results) for i in range(NUM_BUFFERS)]
        self._host_out = [host(f"{name}host_out{i}", results) for i in range(NUM_BUFFERS)]
        self._parity = 0
        self._latest: Event | None = None

    def packet(self, build: Callable[[np.ndarray], Packet]) -> Packet:
        """Fills the next step's packet and sends it."""
        i = self._parity = (self._parity + 1) % NUM_BUFFERS
        host_in, device_in = self._host_in[i], self._device_in[i]
        packet = build(host_in.host_write())
        if packet.size:
            self._h2d.enqueue(_copy(host_in, device_in, packet.size), reads=[host_in], writes=[device_in])
            self.compute.wait(self._h2d.record())
        return packet

    def after(self, other: Lane) -> None:
        """The next step waits for what ``other`` has been given so far."""
        if other._latest is not None:
            self.compute.wait(other._latest)

    def launch(
        self,
        plan: StepPlan,
        variant: Variant,
        packet: Packet,
        layout: ResultLayout,
        run: Callable[[Tensor, Tensor], None],
    ) -> Launched:
        """Queues ``run(packet's words, results' words)`` of the step whose packet was the last, and returns at once."""
        i = self._parity
        device_in, device_out, host_out = self._device_in[i], self._device_out[i], self._host_out[i]
        begin = self.compute.record()
        reads = [device_in] if packet.size else []
        self.compute.enqueue(lambda: run(device_in.tensor, device_out.tensor), reads=reads, writes=[device_out])
        end = self._latest = self.compute.record()
        self._d2h.wait(end)
        self._d2h.enqueue(_copy(device_out, host_out, layout.size), reads=[device_out], writes=[host_out])
        return Launched(plan, variant, layout, host_out, self._d2h.record(), begin, end)


def _copy(source: Buffer, target: Buffer, size: int) -> Callable[[], None]:
    def copy() -> None:
        target.tensor[:size].copy_(source.tensor[:size], non_blocking=True)

    return copy
