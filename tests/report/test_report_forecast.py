"""Rates, how long answers get, and how long the rest takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.report.forecast import Rest, StepCost, seconds_left
from runner.report.lengths import Lengths, Survival
from runner.report.meter import Meter
from runner.report.throughput import Reading, Readings
from runner.types import EngineStats, RowResult


def test_rates_are_over_the_window() -> None:
    readings = Readings()
    for second in range(0, 200, 10):
        rate = 100 if second < 100 else 10
        stats = EngineStats(steps=second, prompt_tokens=second, completion_tokens=100 * 100 + rate * second)
        readings.add(float(second), stats, {})
    assert readings.rates().prompt == pytest.approx(1.0)
    assert readings.rates().completion == pytest.approx(10.0)


def test_a_new_engine_starts_a_new_window() -> None:
    readings = Readings()
    readings.add(0.0, EngineStats(steps=10, completion_tokens=1000), {})
    readings.add(10.0, EngineStats(steps=1, completion_tokens=50), {})
    assert readings.rates().completion == 0
    readings.add(20.0, EngineStats(steps=9, completion_tokens=150), {})
    assert readings.rates().completion == pytest.approx(10.0)


def survival(finished: Sequence[int], running: Sequence[int] = (), limit: int = 10_000) -> Survival:
    lengths = Lengths(limit)
    for tokens in finished:
        lengths.add(tokens)
    found = lengths.survival(running)
    assert found is not None
    return found


def test_without_a_finished_answer_nothing_is_known() -> None:
    assert Lengths(100).survival([5, 7]) is None


def test_it_is_the_product_limit_of_the_finished_and_the_running() -> None:
    found = survival([10] * 20 + [30] * 10, running=[20] * 30)
    # 20 of 60 end at 10; of the 10 that are still watched at 30, all do
    assert found.at(np.array([9.0, 10.0, 29.0])) == pytest.approx([1.0, 2 / 3, 2 / 3])
    assert found.at(np.array([30.0])) == pytest.approx([0.0])


def test_running_answers_count_against_the_short_ones_that_finished_first() -> None:
    naive, censored = survival([100] * 50), survival([100] * 50, running=[900] * 50)
    assert naive.draw(100).mean() == pytest.approx(100)
    assert censored.draw(100).mean() > 500


def test_what_is_left_of_a_running_answer_is_more_the_longer_the_others_got() -> None:
    found = survival([10] * 50 + [1000] * 50)
    rest = found.draw_rest(np.array([5.0] * 50 + [500.0] * 50))
    assert (rest >= 1).all()
    assert rest[50:] == pytest.approx([500] * 50)
    assert rest[:50].mean() == pytest.approx((5 + 995) / 2, rel=0.05)


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    found = survival([90] * 3, running=[95] * 20, limit=100)
    assert found.draw(1000).max() <= 100
    assert found.draw_rest(np.array([95.0] * 20)).max() <= 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("running", [[], [0], [7] * 20])
def test_answers_that_failed_without_a_token_leave_a_finite_estimate(running: list[int]) -> None:
    found = survival([0] * 12, running)
    known = cost(0.01, 0.001, [100, 50])
    seconds = seconds_left(Rest(30, np.array(running, dtype=float), 10), found, known, 0.0)
    assert seconds is not None
    assert 0 < seconds < float("inf")


@pytest.mark.filterwarnings("error")
@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.lists(st.integers(0, 500), max_size=60), st.data())
def test_length_is_the_inverse_of_survival(finished: list[int], running: list[int], data: st.DataObject) -> None:
    found = survival(finished, running, limit=500)
    tokens = np.arange(0.0, 501.0)
    shares = found.at(tokens)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) <= 1e-12).all()
    share = data.draw(st.floats(1e-6, 1.0, exclude_max=True))
    length = float(found.length(np.array([share]))[0])
    assert 1 <= length <= 500
    assert float(found.at(np.array([length]))[0]) <= share + 1e-9 or length == 500


def cost(fixed: float, slope: float, batches: Sequence[int]) -> StepCost:
    """Learnt from ten seconds of each batch size."""
    known, now, stats = StepCost(), 0.0, EngineStats()
    for rows in batches:
        steps = int(10 / (fixed + slope * rows))
        later = EngineStats(steps=stats.steps + steps, completion_tokens=stats.completion_tokens + steps * rows)
        seconds = steps * (fixed + slope * rows)
        known.add(Reading(now, stats, {}), Reading(now + seconds, later, {}))
        now, stats = now + seconds, later
    return known


def test_the_cost_of_a_step_is_learnt_from_batches_of_several_sizes() -> None:
    assert cost(0.01, 0.001, [100, 50, 10]).line(None) == pytest.approx((0.01, 0.001), rel=0.2)


def test_of_one_size_it_is_what_the_card_says_or_half() -> None:
    assert cost(0.01, 0.0001, [100] * 5).line(None) == pytest.approx((0.01, 0.0001), rel=0.01)
    assert cost(0.016, 0.00004, [100] * 5).line(0.016) == pytest.approx((0.016, 0.00004), rel=0.05)
    assert not StepCost().is_known


def test_the_rest_is_run_through_the_places() -> None:
    lengths = survival([100] * 50)
    known = cost(0.01, 0.0, [10])
    seconds = seconds_left(Rest(30, np.array([50.0] * 10), 10), lengths, known, prefill_seconds=0.5, empty_seconds=0.01)
    assert seconds == pytest.approx(50 * 0.01 + 3 * 100 * 0.01 + 30 * 0.5)
    many = seconds_left(Rest(30_000, np.array([]), 10), lengths, known, prefill_seconds=0.0, empty_seconds=0.01)
    assert many == pytest.approx(3000 * 100 * 0.01)
    assert seconds_left(Rest(1, np.array([]), 1), lengths, StepCost(), 0.0) is None


def test_a_long_tail_is_seen_before_it_comes() -> None:
    """One of twenty answers is long; at a third of the time rows a second sees no tail, the lengths do."""
    chance = random.Random(0)
    answers = [1000 if chance.random() < 0.05 else 20 for _ in range(400)]
    meter, running, now, seen = Meter(400, 0, 1000, 40), [], 0.0, []
    meter.add_taken(400, 400)
    stats = EngineStats()
    while answers or running:
        while answers and len(running) < 40:
            running.append([0, answers.pop()])
        now += 0.01 + 0.0001 * len(running)
        for item in running:
            item[0] += 1
        stats.steps += 1
        stats.completion_tokens += len(running)
        for made, _ in [item for item in running if item[0] == item[1]]:
            meter.lengths.add(made)
            meter.add_row(RowResult(0))
        running = [item for item in running if item[0] < item[1]]
        stats.num_running, stats.running_lengths = len(running), [made for made, _ in running]
        meter.note(now, stats)
        seen.append((now, meter.seconds_left(stats), meter.seconds_left_by_rows(now)))
    at, by_lengths, by_rows = next(look for look in seen if look[0] > now / 3)
    left = now - at
    assert by_lengths is not None
    assert by_rows is not None
    assert by_rows < 0.7 * left
    assert abs(by_lengths - left) < 0.35 * left


def test_rows_not_read_yet_count_as_those_read_did() -> None:
    """Ten of a hundred rows were read, two of them bad: eight gave two samples each, and four of those are back."""
    meter = Meter(total_rows=100, done_rows=0, max_tokens=10, max_num_seqs=4)
    meter.add_taken(10, 16)
    for _ in range(4):
        meter.lengths.add(10)
    stats = EngineStats(steps=1)
    meter.note(0.0, stats)
    stats = EngineStats(steps=11, completion_tokens=40, num_running=4, running_lengths=[0, 0, 0, 0])
    meter.note(10.0, stats)
    # 12 + 90 * 1.6 samples of ten tokens, four at a time, a second a step
    assert meter.seconds_left(stats) == pytest.approx((12 + 144) / 4 * 10, rel=0.02)
