"""The loop over stand-ins: every row comes back once, whatever the engine does."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NAMES, Asked, Fragile, Memory, PlainJob, Queued, Rendering, Rows, Spans, Streaming
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.echo import EchoEngine, EchoTokenizer
from runner.errors import BudgetError, ConfigError, EngineError
from runner.output import Totals
from runner.report.guard import QualityGuard
from runner.report.progress import Progress
from runner.run.budget import ErrorBudget
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight
from runner.run.loop import Loop
from runner.run.recovery import RestartingEngine
from runner.run.source import WorkSource
from runner.run.stop_strings import StopStringWatch
from runner.run.time_limit import TimeLimit
from runner.seeds import sample_seed
from runner.signals import Stop, StopFlag
from runner.types import Completion, EngineClient, EngineStats, Refused, SamplingParams, Stage

GREEDY = SamplingParams(temperature=0.0)


def make_loop(
    writer: Memory,
    num_rows: int = 20,
    *,
    factory: Callable[[], EngineClient] = EchoEngine,
    sampling: SamplingParams = GREEDY,
    job: Any = None,
    bad: frozenset[int] = frozenset(),
    done: frozenset[int] = frozenset(),
    max_rate: float = 1.0,
    stop: StopFlag | None = None,
    max_samples: int = 8,
    clock: Callable[[], float] = lambda: 0.0,
    time_limit: TimeLimit | None = None,
    ranges: Spans | None = None,
) -> Loop:
    return Loop(
        source=WorkSource(ranges or Spans(num_rows, done), Rows(num_rows, bad), Rendering(sampling), sampling.n),
        engine=RestartingEngine(factory),
        finisher=Finisher(job or PlainJob(), EchoTokenizer(), NAMES, "echo"),
        watch=StopStringWatch(EchoTokenizer()),
        writer=writer,
        inflight=InFlight(run_seed=0),
        budget=ErrorBudget(max_rate, after=10),
        guard=QualityGuard(),
        progress=Progress(num_rows, 0, sampling.max_tokens, io.StringIO()),
        stop=stop or StopFlag(),
        max_samples=max_samples,
        samples_per_row=sampling.n,
        clock=clock,
        time_limit=time_limit,
    )


def test_every_row_is_written_once_with_its_answer() -> None:
    writer = Memory()
    assert make_loop(writer, 20).run()
    assert writer.texts() == {row_id: [f"row {row_id}"] for row_id in range(20)}
    assert len(writer.results) == 20
    assert writer.flushes


def test_rows_that_are_done_are_not_done_again() -> None:
    writer = Memory()
    assert make_loop(writer, 20, done=frozenset({0, 3, 19})).run()
    assert sorted(writer.texts()) == [row_id for row_id in range(20) if row_id not in (0, 3, 19)]


def test_all_samples_of_a_row_are_collected_before_it_is_written() -> None:
    writer = Memory()
    assert make_loop(writer, 9, factory=Fragile, sampling=SamplingParams(n=3)).run()
    for result in writer.results:
        assert sorted(record["sample_index"] for record in result.records) == [0, 1, 2]
        seeds = {record["sample_index"]: record["seed"] for record in result.records}
        assert seeds == {index: sample_seed(0, result.row_id, 0, index) for index in range(3)}


def test_a_fixed_seed_counts_up_over_the_samples() -> None:
    writer = Memory()
    assert make_loop(writer, 2, sampling=SamplingParams(n=2, seed=40)).run()
    assert [[record["seed"] for record in result.records] for result in writer.results] == [[40, 41], [40, 41]]


class Telling(Fragile):
    """Says so many samples run, and so many wait."""

    def __init__(self, num_running: int, num_waiting: int) -> None:
        super().__init__()
        self._told = EngineStats(num_running=num_running, num_waiting=num_waiting)

    def stats(self) -> EngineStats:
        return self._told


@pytest.mark.parametrize(("num_running", "num_waiting", "is_hungry"), [(8, 0, True), (8, 1, False), (1, 0, False)])
def test_an_engine_is_hungry_while_it_runs_all_that_it_was_given(
    num_running: int, num_waiting: int, is_hungry: bool
) -> None:
    ranges = Asked(35)
    assert make_loop(Memory(), 35, factory=lambda: Telling(num_running, num_waiting), ranges=ranges).run()
    assert any(ranges.asked[1:]) == is_hungry  # before the first request nothing is known


def test_what_is_in_flight_is_bounded() -> None:
    engine = Fragile()
    assert make_loop(Memory(), 200, factory=lambda: engine, max_samples=8).run()
    assert engine.most_held <= 8


def test_stop_strings_cut_the_text_and_name_themselves() -> None:
    writer = Memory()
    assert make_loop(writer, 1, sampling=replace(GREEDY, stop=("w ",))).run()
    (record,) = writer.results[0].records
    assert (record["completion"], record["finish_reason"]) == ("ro", "stop")


def test_unreadable_rows_become_errors_for_all_their_samples() -> None:
    writer = Memory()
    assert make_loop(writer, 9, sampling=SamplingParams(n=4), bad=frozenset({2})).run()
    (error,) = next(result for result in writer.results if result.row_id == 2).errors
    assert (error.code, error.num_samples) == ("bad_json", 4)


class Picky(PlainJob):
    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any] | None:
        if completion.row_id == 1:
            raise Refused("too short", code="short")
        if completion.row_id == 2:
            raise KeyError("answer")
        return None if completion.row_id == 3 else {}


def test_what_a_job_refuses_drops_or_stumbles_over_is_accounted_for() -> None:
    writer = Memory()
    assert make_loop(writer, 5, job=Picky()).run()
    by_row = {result.row_id: result for result in writer.results}
    assert [(by_row[i].errors[0].stage, by_row[i].errors[0].code) for i in (1, 2)] == [
        (Stage.PARSE, "short"),
        (Stage.PARSE, "parse_failed"),
    ]
    assert by_row[2].errors[0].raw == "row 2"
    assert (by_row[3].dropped, by_row[3].records) == (1, [])
    assert len(by_row[4].records) == 1


def test_too_many_errors_end_the_run() -> None:
    writer = Memory()
    with pytest.raises(BudgetError, match=r"output.max_error_rate=0.1: 3 of"):
        make_loop(writer, 100, bad=frozenset({1, 2, 3}), max_rate=0.1).run()
    assert len(writer.results) < 100


def test_the_error_budget_waits_for_enough_rows() -> None:
    writer = Memory()
    assert make_loop(writer, 9, bad=frozenset({1, 2, 3}), max_rate=0.1).run()
    assert len(writer.results) == 9


class Undeclared(PlainJob):
    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any] | None:
        raise ConfigError("parse returned a column that is not declared")


def test_a_job_that_cannot_work_at_all_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="not declared"):
        make_loop(Memory(), 5, job=Undeclared()).run()


def test_one_crash_condemns_no_row_even_if_it_was_alone() -> None:
    engines = [Fragile(frozenset({b"row 0"})), EchoEngine()]
    writer = Memory()
    assert make_loop(writer, 1, factory=lambda: engines.pop(0)).run()
    assert writer.texts() == {0: ["row 0"]}


def test_a_crash_loses_nothing_and_costs_no_row() -> None:
    engines = [Fragile(frozenset({b"row 5"})), EchoEngine()]
    writer = Memory()
    assert make_loop(writer, 30, factory=lambda: engines.pop(0)).run()
    assert writer.texts() == {row_id: [f"row {row_id}"] for row_id in range(30)}
    assert len(writer.results) == 30


@given(
    poison=st.frozensets(st.integers(0, 29), max_size=3),
    n=st.integers(1, 3),
    max_samples=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_only_poisonous_rows_are_quarantined(poison: frozenset[int], n: int, max_samples: int) -> None:
    prompts = frozenset(f"row {row_id}".encode() for row_id in poison)
    writer = Memory()
    sampling = SamplingParams(n=n)
    loop = make_loop(writer, 30, factory=lambda: Fragile(prompts), sampling=sampling, max_samples=max_samples)
    try:
        finished = loop.run()
    except EngineError:
        # Only when poisonous rows follow one another is there no progress between three failures.
        assert len(poison) > 1
        return
    assert finished
    assert {result.row_id for result in writer.results if result.errors} == poison
    for result in writer.results:
        assert len(result.records) + sum(error.num_samples for error in result.errors) == n


def test_an_engine_that_never_starts_ends_the_run_after_three_tries_and_blames_no_row() -> None:
    tries = []

    def factory() -> EngineClient:
        tries.append(1)
        raise EngineError("no device")

    writer = Memory()
    with pytest.raises(EngineError, match=r"3 times without progress.*no device"):
        make_loop(writer, 1, factory=factory).run()
    assert (len(tries), writer.results) == (3, [])


class Stopping(Fragile):
    """Asks for a stop at the third poll."""

    def __init__(self, stop: StopFlag, level: Stop) -> None:
        super().__init__()
        self._stop, self._level, self._polls = stop, level, 0

    def poll(self, timeout: float) -> list[Any]:
        self._polls += 1
        if self._polls == 3:
            self._stop.request(self._level)
        return super().poll(timeout)


def stopped_run(level: Stop, clock: Callable[[], float] = lambda: 0.0) -> Memory:
    stop, writer = StopFlag(), Memory()
    loop = make_loop(writer, 100, factory=lambda: Stopping(stop, level), stop=stop, clock=clock)
    assert not loop.run()
    return writer


def test_a_drain_finishes_what_is_in_flight_and_admits_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    writer = stopped_run(Stop.DRAIN)
    assert "finishing the answers in progress first; Ctrl-C again stops at once" in caplog.text
    assert 8 <= len(writer.results) <= 11
    assert writer.flushes == 2


def test_now_means_flush_and_go() -> None:
    writer = stopped_run(Stop.NOW)
    assert len(writer.results) == 3
    assert writer.flushes == 2


def test_a_brief_stop_drains_until_its_time_is_up() -> None:
    ticks = iter(range(0, 1000, 4))
    writer = stopped_run(Stop.BRIEF, clock=lambda: float(next(ticks)))
    assert 3 < len(writer.results) < 8


def test_a_stop_that_comes_when_all_is_done_changes_nothing() -> None:
    stop, writer = StopFlag(), Memory()
    loop = make_loop(writer, 3, factory=lambda: Stopping(stop, Stop.DRAIN), stop=stop)
    assert loop.run()
    assert len(writer.results) == 3


def test_a_stop_string_ends_the_sample_in_the_engine() -> None:
    """Without the abort the engine would go on to a million tokens."""
    engine, writer = Streaming(), Memory()
    sampling = SamplingParams(temperature=0.0, stop=("3r", "7r"), max_tokens=10**6)
    assert make_loop(writer, 8, factory=lambda: engine, sampling=sampling, bad=frozenset({0, 1, 2, 4, 5, 6})).run()
    assert {k: v for k, v in writer.texts().items() if v} == {3: ["row "], 7: ["row "]}
    assert engine.longest <= 8


def test_an_interrupt_finishes_what_runs_and_drops_what_only_waits() -> None:
    stop, writer, polls = StopFlag(), Memory(), []

    def interrupt_at_the_third() -> None:
        polls.append(1)
        if len(polls) == 3:
            stop.request(Stop.DRAIN)

    assert not make_loop(writer, 20, factory=lambda: Queued(interrupt_at_the_third), stop=stop).run()
    assert {row_id: texts for row_id, texts in writer.texts().items() if texts} == {i: [f"row {i}"] for i in range(4)}
    assert len(writer.results) == 4
    assert len(polls) < 8


def test_a_run_whose_last_rows_were_dropped_for_a_stop_is_not_done() -> None:
    stop, writer = StopFlag(), Memory()
    loop = make_loop(writer, 5, factory=lambda: Queued(lambda: stop.request(Stop.BRIEF)), stop=stop)
    assert not loop.run()
    assert 0 < len(writer.results) < 5


def test_a_job_in_which_every_row_failed_is_no_success() -> None:
    lost = Totals(rows=6, failed_rows=6, errors={"bad_json": 6})
    with pytest.raises(BudgetError, match=r"6 of the job's 6 rows failed \(bad_json 6\)"):
        ErrorBudget(0.05, after=10).check_end(Path("out"), lost)
    assert ErrorBudget(1.0, after=10).allows(lost)
    assert ErrorBudget(0.05, after=10).allows(Totals(rows=6, failed_rows=5))
