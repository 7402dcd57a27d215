"""The CPU stand-in finds races: each is planted alone into a correct double-buffered pipeline."""

from __future__ import annotations

import pytest

from runner.engine.device import CpuDevice, RaceError


class Pipeline:
    """What the model runner does, in miniature: x -> x + 1 through four double-buffered stages.

    Each keyword argument takes out one rule.
    """

    def __init__(self, **broken: bool) -> None:
        self.broken = broken
        self.device = device = CpuDevice()
        copies = 1 if broken.get("one_buffer") else 2
        self.host_in = [device.host_buffer(f"in{i}", 4) for i in range(copies)]
        self.device_in = [device.device_buffer(f"din{i}", 4) for i in range(copies)]
        self.device_out = [device.device_buffer(f"dout{i}", 4) for i in range(copies)]
        self.host_out = [device.host_buffer(f"out{i}", 4) for i in range(copies)]
        self.step = 0

    def launch(self, value: int):  # type: ignore[no-untyped-def]
        device, i = self.device, self.step % len(self.host_in)
        self.step += 1
        source, target, result, landing = self.host_in[i], self.device_in[i], self.device_out[i], self.host_out[i]
        view = source.host_write()
        if not self.broken.get("late_write"):
            view[:] = value
        device.h2d.enqueue(lambda: target.tensor.copy_(source.tensor), reads=[source], writes=[target])
        if self.broken.get("late_write"):
            source.host_write()[:] = value
        if not self.broken.get("compute_does_not_wait"):
            device.compute.wait(device.h2d.record())
        device.compute.enqueue(lambda: result.tensor.copy_(target.tensor + 1), reads=[target], writes=[result])
        early = device.d2h.record()
        if not self.broken.get("d2h_does_not_wait"):
            device.d2h.wait(device.compute.record())
        device.d2h.enqueue(lambda: landing.tensor.copy_(result.tensor), reads=[result], writes=[landing])
        return (early if self.broken.get("event_before_copy") else device.d2h.record()), landing

    def read(self, launched) -> int:  # type: ignore[no-untyped-def]
        event, landing = launched
        if not self.broken.get("no_host_wait"):
            event.synchronize()
        return int(landing.host_read()[0])

    def run(self, steps: int = 6) -> list[int]:
        """Asynchronous: step N + 1 is launched before N is read."""
        values, ahead = [], 3 if self.broken.get("three_in_flight") else 1
        flying = []
        for value in range(steps):
            flying.append(self.launch(value))
            if len(flying) > ahead:
                values.append(self.read(flying.pop(0)))
        return values + [self.read(launched) for launched in flying]


def test_the_correct_pipeline_runs_and_is_right() -> None:
    assert Pipeline().run() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "race",
    [
        "one_buffer",
        "late_write",
        "compute_does_not_wait",
        "d2h_does_not_wait",
        "event_before_copy",
        "no_host_wait",
        "three_in_flight",
    ],
)
def test_each_planted_race_is_found(race: str) -> None:
    with pytest.raises(RaceError):
        Pipeline(**{race: True}).run()


def test_reading_what_nothing_wrote_is_found() -> None:
    device = CpuDevice()
    with pytest.raises(RaceError, match="nothing has written"):
        device.host_buffer("out", 4).host_read()


def test_the_time_of_an_event_that_nobody_waited_for_is_not_known() -> None:
    device = CpuDevice()
    begin, end = device.compute.record(), device.compute.record()
    with pytest.raises(RaceError, match="before the event"):
        end.seconds_since(begin)
    end.synchronize()
    assert 0 <= end.seconds_since(begin) < 1


def test_work_runs_only_when_something_waits_for_it() -> None:
    device = CpuDevice()
    buffer, ran = device.device_buffer("b", 4), []
    device.compute.enqueue(lambda: ran.append(1), writes=[buffer])
    event = device.compute.record()
    device.compute.enqueue(lambda: ran.append(2), writes=[buffer])
    assert ran == []
    event.synchronize()
    assert ran == [1]
    device.synchronize()
    assert ran == [1, 2]
