"""Where the device's time is counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runner.engine.device import Event
from runner.engine.device_times import DeviceTimes


@dataclass
class At(Event):
    seconds: float

    def synchronize(self) -> None:
        pass

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, At)
        return self.seconds - earlier.seconds


def test_prompts_rows_and_the_time_between() -> None:
    times = DeviceTimes()
    assert times.expected(100) == 0
    times.add(At(0), At(1), num_prefill_tokens=100, num_decode=0)
    times.add(At(1.5), At(2), num_prefill_tokens=0, num_decode=7)
    times.add(At(2), At(3), num_prefill_tokens=50, num_decode=7)  # 50 tokens alone would take half of it
    assert (times.prefill, times.decode, times.idle) == pytest.approx((1.5, 1.0, 0.5))
    assert times.expected(10) == pytest.approx(0.1)


def test_a_pause_is_not_idle() -> None:
    times = DeviceTimes()
    times.add(At(0), At(1), 1, 0)
    times.pause()
    times.add(At(5), At(6), 1, 0)
    assert times.idle == 0
