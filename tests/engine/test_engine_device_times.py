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

    def has_passed(self) -> bool:
        return True

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, At)
        return self.seconds - earlier.seconds


def test_prompts_rows_and_the_time_between() -> None:
    times = DeviceTimes()
    assert times.expected(100) == 0
    times.add_prompts(At(0), At(1), num_tokens=100)
    times.add_rows(At(1.5), At(2), beside=False)
    assert (times.prefill, times.decode, times.idle) == pytest.approx((1.0, 0.5, 0.5))
    assert times.expected(10) == pytest.approx(0.1)


def test_what_rows_and_prompts_share_counts_once() -> None:
    times = DeviceTimes()
    times.add_prompts(At(0), At(1), num_tokens=100)
    times.add_rows(At(1.2), At(1.7), beside=True)  # the prompts of 1.1 to 2.3 are in flight: the gap is no idling
    times.add_rows(At(1.8), At(2.1), beside=True)
    times.add_prompts(At(1.1), At(2.3), num_tokens=70)  # 70 tokens alone would take 0.7 of the 1.3
    times.add_rows(At(2.2), At(2.6), beside=False)
    assert (times.prefill, times.decode, times.idle) == pytest.approx((1.7, 0.9, 0.0))
    times.add_prompts(At(2.5), At(2.55), num_tokens=1)  # over before the rows that were counted
    assert times.prefill + times.decode + times.idle == pytest.approx(2.6)


def test_rows_that_were_over_before_prompts_began_do_not_make_them_seem_quick() -> None:
    times = DeviceTimes()
    times.add_prompts(At(0), At(1), num_tokens=100)
    times.add_rows(At(1), At(1.5), beside=True)  # read while the prompts of 1.5 to 1.6 are in flight
    times.add_prompts(At(1.5), At(1.6), num_tokens=100)
    assert times.expected(100) == pytest.approx(1.0)
    assert times.prefill + times.decode == pytest.approx(1.6)


def test_prompts_that_fail_take_no_time_of_the_rows_beside_them() -> None:
    times = DeviceTimes()
    times.add_rows(At(0), At(1), beside=True)
    times.lose_prompts()
    assert times.decode == pytest.approx(1.0)


def test_a_pause_is_not_idle() -> None:
    times = DeviceTimes()
    times.add_prompts(At(0), At(1), 1)
    times.pause()
    times.add_prompts(At(5), At(6), 1)
    assert times.idle == 0
