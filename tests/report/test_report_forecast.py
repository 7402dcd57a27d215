"""Rates, how long answers get, and how long the rest takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.report.cards import ModelShape
from runner.report.forecast import CardSpeed, Rest, StepCost, seconds_left
from runner.report.lengths import Lengths, Running, Survival
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
    found = lengths.survival(Running.of(running))
    assert found is not None
    return found


def test_without_a_finished_answer_nothing_is_known() -> None:
    assert Lengths(100).survival(Running.of([5, 7])) is None


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
    rest = found.draw_rest(Running.of([5] * 50 + [500] * 50))
    assert (rest >= 1).all()
    assert rest[50:] == pytest.approx([500] * 50)
    assert rest[:50].mean() == pytest.approx((5 + 995) / 2, rel=0.05)


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    found = survival([90] * 3, running=[95] * 20, limit=100)
    assert found.draw(1000).max() <= 100
    assert found.draw_rest(Running.of([95] * 20)).max() <= 5


def test_no_answer_is_expected_to_be_longer_than_it_may_be_itself() -> None:
    found = survival([900] * 30, limit=1000)
    running = Running.of([5, 30, 20], limits=[50, 1000, 25])
    assert found.draw_rest(running) == pytest.approx([45, 870, 5])


def test_an_answer_that_only_its_limit_can_end_is_known_from_its_first_token_on() -> None:
    running = Running.of([1, 1, 60], limits=[50, 100, 80], certain=True)
    found = Lengths(10_000).survival(running)
    assert found is not None
    assert found.draw_rest(running) == pytest.approx([49, 99, 20])
    assert found.draw(300).max() <= 100
    assert Lengths(10_000).survival(Running.of([1], limits=[50])) is None


def test_answers_that_wait_are_as_those_that_run_may_get() -> None:
    lengths = Lengths(10_000)
    lengths.add(30)
    found = lengths.survival(Running.of([35] * 40, limits=[60] * 40))
    assert found is not None
    assert found.draw(100).max() == 60


def test_once_the_longest_start_first_none_that_waits_is_longer_than_the_last_that_started() -> None:
    started = [300, 700, 100, 900, 800, 600, 600, 500, 400]
    falling = Running.of([1] * 9, limits=started, certain=True)
    assert falling.longest_next == 400
    assert Running.of([1] * 9, limits=started[::-1], certain=True).longest_next is None
    assert Running.of([1] * 9, limits=started).longest_next is None
    assert Running.of([1] * 3, limits=[3, 2, 1], certain=True).longest_next is None
    found = survival(range(100, 1000))
    drawn = found.draw(400, 400)
    assert drawn.mean() == pytest.approx(250, rel=0.02)
    assert (np.diff(drawn) <= 0).all()
    assert drawn.max() <= 400


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("running", [[], [0], [7] * 20])
def test_answers_that_failed_without_a_token_leave_a_finite_estimate(running: list[int]) -> None:
    found = survival([0] * 12, running)
    known = cost(0.01, 0.001, [100, 50])
    seconds = seconds_left(Rest(30, Running.of(running), 10), found, known, 0.0)
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
    assert cost(0.016, 0.00004, [100] * 5).line(CardSpeed(0.016, 0.0, 1.0)) == pytest.approx((0.016, 0.00004), rel=0.05)
    assert not StepCost().is_known


class Clock:
    """A device of its own time, looked at once a stretch."""

    def __init__(self) -> None:
        self.known, self.now, self.stats = StepCost(), 0.0, EngineStats()

    def pass_by(self, prefill: int = 0, decode: int = 0, rows: int = 0, cached: int = 0, pause: float = 0.0) -> None:
        """Steps with prompts take 0.3 s, those without 10 ms and 20 ns a token of cache, and 1 ms between them."""
        old, steps = self.stats, prefill + decode
        work = decode * (0.01 + 20e-9 * cached)
        self.stats = EngineStats(
            steps=old.steps + steps,
            completion_tokens=old.completion_tokens + 30 * prefill + decode * rows,
            kv_tokens_read=old.kv_tokens_read + decode * cached,
            prefill_seconds=old.prefill_seconds + 0.3 * prefill,
            decode_seconds=old.decode_seconds + work,
        )
        before, self.now = self.now, self.now + 0.3 * prefill + work + 0.001 * steps + pause
        self.known.add(Reading(before, old, {}), Reading(self.now, self.stats, {}))


def test_a_step_costs_what_it_does_without_prompts_and_pauses_that_come_once() -> None:
    """Ten readings of prompts with seconds of waiting for kernels between them say nothing of what is to come."""
    clock = Clock()
    for pause in (2.0, 1.0, 0.5, 0, 0, 0, 0, 0, 0, 0):
        clock.pass_by(prefill=3, pause=pause)
    assert not clock.known.is_known
    clock.pass_by(prefill=2, decode=30, rows=100, cached=100_000, pause=0.5)
    for cached in range(110_000, 160_000, 10_000):
        clock.pass_by(decode=90, rows=100, cached=cached)
    fixed, slope = clock.known.line(CardSpeed(0.01, 10e-9, 0.8))
    assert fixed + slope * 130_000 == pytest.approx(0.011 + 20e-9 * 130_000, rel=0.05)
    assert slope == pytest.approx(20e-9, rel=0.1)


def test_answers_that_get_longer_read_more_cache_at_each_step() -> None:
    clock = Clock()
    for cached in (1_000_000, 500_000, 200_000):
        clock.pass_by(decode=100, rows=1000, cached=cached)
    running = Running.of([100] * 1000, limits=[300] * 1000, certain=True)
    lengths = Lengths(1000).survival(running)
    assert lengths is not None
    card = CardSpeed(0.01, 0.0, 1.0)
    seconds = seconds_left(Rest(0, running, 1000, prompt_tokens=500), lengths, clock.known, 0.0, card)
    assert seconds == pytest.approx(200 * 0.011 + 20e-9 * 1000 * 200 * (500 + 100 + 100), rel=0.02)


def test_before_the_first_step_without_prompts_the_card_speaks() -> None:
    """A quarter of the cache is taken by 20 of 100 certain answers, so 80 will run at once."""
    shape = ModelShape(step_bytes=3.35e10, weight_bytes=1, decode_flops=1, prefill_flops=1, kv_bytes=0)  # 10 ms
    meter = Meter(100, 0, 10_000, max_num_seqs=512, shape=shape)
    meter.add_taken(100, 100)
    stats = EngineStats(steps=1, prompt_tokens=2000, prefill_seconds=1.0, num_running=20, num_waiting=80)
    stats.running_lengths, stats.running_limits, stats.running_certain = [1] * 20, [101] * 20, True
    stats.kv_blocks_used, stats.kv_blocks_total = 25, 100
    meter.note(1.0, stats)
    assert meter.seconds_left(stats) is None  # nobody knows this device
    stats.device = "NVIDIA H100 80GB HBM3"
    assert meter.seconds_left(stats) == pytest.approx(80 / 20 * 1.0 + (100 + 101) * 0.01 / 0.85, rel=0.01)


@pytest.mark.parametrize(("taken", "waiting_tokens"), [(106, 27.7), (56, 309.4)])
def test_only_of_rows_that_were_all_taken_up_the_longest_start_first(taken: int, waiting_tokens: float) -> None:
    """A hundred of 206 answers came back, of 25 and 625 tokens; those that wait have 50 at most, if in order."""
    meter = Meter(206, 0, 10_000, max_num_seqs=6)
    meter.add_taken(taken + 100, taken + 100)
    for _ in range(50):
        meter.lengths.add(25)
        meter.lengths.add(625)
    stats = EngineStats(steps=1, num_running=6)
    meter.note(0.0, stats)
    stats = EngineStats(steps=101, completion_tokens=600, num_running=6, decode_seconds=10.0)
    stats.running_lengths, stats.running_limits = [49] * 6, [50] * 6
    meter.note(10.0, stats)
    assert meter.seconds_left(stats) == pytest.approx((100 * waiting_tokens / 6 + 1) * 0.1, rel=0.04)


def test_the_rest_is_run_through_the_places() -> None:
    lengths = survival([100] * 50)
    known = cost(0.01, 0.0, [10])
    seconds = seconds_left(
        Rest(30, Running.of([50] * 10), 10), lengths, known, prefill_seconds=0.5, card=CardSpeed(0.01, 0.0, 1.0)
    )
    assert seconds == pytest.approx(50 * 0.01 + 3 * 100 * 0.01 + 30 * 0.5)
    many = seconds_left(
        Rest(30_000, Running.of([]), 10), lengths, known, prefill_seconds=0.0, card=CardSpeed(0.01, 0.0, 1.0)
    )
    assert many == pytest.approx(3000 * 100 * 0.01)
    assert seconds_left(Rest(1, Running.of([]), 1), lengths, StepCost(), 0.0) is None


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
