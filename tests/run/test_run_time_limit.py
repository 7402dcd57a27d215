"""Rows that cannot be done before the time limit are not begun, and are there for the next run."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from commands import command, write_rows, write_slow_job
from fakes import Memory, Queued
from test_run_loop import make_loop

from runner.run.inflight import InFlight, RowWork
from runner.run.time_limit import MARGIN_SECONDS, TimeLimit, seconds_to_end
from runner.types import Request, RowResult, SamplingParams, SourceRow


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work_of(row_id: int, max_tokens: int = 100, *, ignore_eos: bool = False) -> RowWork:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos)
    return RowWork(SourceRow(row_id, {}), [Request(row_id, 0, [1], sampling)], RowResult(row_id))


def do_row(limit: TimeLimit, clock: Clock, seconds: float, tokens: int, row_id: int = 0) -> None:
    (work,) = limit.admit([work_of(row_id)])
    clock.wait(seconds)
    work.pending.clear()
    limit.add(work, tokens)


def fits(limit: TimeLimit, work: RowWork) -> bool:
    return limit.admit([work]) == [work]


def test_while_nothing_is_known_every_row_is_begun(clock: Clock) -> None:
    assert fits(TimeLimit(1.0, clock), work_of(1))


def test_a_row_is_begun_while_the_time_that_rows_take_is_left_before_the_margin(clock: Clock) -> None:
    limit = TimeLimit(MARGIN_SECONDS + 300.0, clock)
    do_row(limit, clock, 60.0, tokens=50)
    clock.wait(180.0)
    assert fits(limit, work_of(1))
    assert not limit.is_closed
    clock.wait(1.0)
    assert not fits(limit, work_of(2))
    assert limit.is_closed


def test_of_a_short_time_half_is_used(clock: Clock) -> None:
    limit = TimeLimit(60.0, clock)
    clock.wait(29.0)
    assert not limit.has_passed
    clock.wait(1.0)
    assert limit.has_passed


def test_nine_of_ten_rows_decide_and_not_the_mean(clock: Clock) -> None:
    limit = TimeLimit(MARGIN_SECONDS + 1000.0, clock)
    for row_id in range(20):
        do_row(limit, clock, 1.0 if row_id < 15 else 100.0, 50, row_id)
    clock.now = 1000.0 + 901.0
    assert not fits(limit, work_of(50))


@pytest.mark.parametrize(
    ("max_tokens", "ignore_eos", "is_begun"), [(10, False, True), (500, False, True), (500, True, False)]
)
def test_a_rows_own_limit_of_tokens_counts(clock: Clock, max_tokens: int, ignore_eos: bool, is_begun: bool) -> None:
    limit = TimeLimit(MARGIN_SECONDS + 360.0, clock)
    do_row(limit, clock, 50.0, tokens=50)
    clock.wait(300.0 if max_tokens == 10 else 200.0)
    assert fits(limit, work_of(1, max_tokens, ignore_eos=ignore_eos)) is is_begun


def test_a_row_is_back_with_the_last_of_its_samples(clock: Clock) -> None:
    limit, inflight = TimeLimit(MARGIN_SECONDS + 1000.0, clock), InFlight(0)
    work = RowWork(SourceRow(0, {}), [Request(0, 0, [1], SamplingParams(n=2))], RowResult(0))
    limit.admit([work])
    inflight.add(work)
    for seconds in (1.0, 899.0):
        clock.wait(seconds)
        work.pending.pop()
        limit.add(work, 10)
    assert not fits(limit, work_of(1))


def slow_loop(writer: Memory, clock: Clock, limit: TimeLimit, done: frozenset[int] = frozenset()):
    engine = Queued(lambda: clock.wait(10.0))
    return make_loop(writer, 60, factory=lambda: engine, done=done, clock=clock, max_samples=12, time_limit=limit)


def test_a_run_ends_by_itself_and_loses_nothing_that_it_began(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A row takes 10 s and waits for up to eleven others; 305 s are given."""
    writer, limit = Memory(), TimeLimit(MARGIN_SECONDS + 305.0, clock)
    caplog.set_level("INFO")
    loop = slow_loop(writer, clock, limit)
    assert not loop.run()
    assert not loop._source.exhausted, "ranges that it has no time for are left to others"
    assert caplog.text.count("no further rows are begun") == 1
    assert not limit.has_passed, "it was not stopped, it had nothing left to do"
    assert 24 <= len(writer.results) <= 30
    done = frozenset(writer.texts())
    assert slow_loop(writer, clock, TimeLimit(clock=clock), done).run()
    assert sorted(writer.texts()) == list(range(60))
    assert len(writer.results) == 60


def test_rows_that_take_longer_than_expected_are_cut_off_when_the_time_is_up(clock: Clock) -> None:
    writer = Memory()
    loop = make_loop(
        writer,
        60,
        factory=lambda: Queued(lambda: clock.wait(30.0)),
        clock=clock,
        max_samples=60,  # all are begun before one has come back
        time_limit=TimeLimit(MARGIN_SECONDS + 295.0, clock),
    )
    assert not loop.run()
    assert 10 <= len(writer.results) <= 12


ENDS: dict[str, tuple[str | None, float | None, float]] = {
    "none": (None, None, float("inf")),
    "Slurm's": ("2000", None, 1000.0),
    "the setting": (None, 1500.0, 500.0),
    "the earlier of both": ("2000", 2500.0, 1000.0),
    "nothing that is a time": ("N/A", None, float("inf")),
}


@pytest.mark.parametrize(("slurm", "setting", "seconds"), ENDS.values(), ids=ENDS)
def test_the_end_is_slurms_or_the_setting(
    monkeypatch: pytest.MonkeyPatch, slurm: str | None, setting: float | None, seconds: float
) -> None:
    monkeypatch.setattr("runner.run.time_limit.time.time", lambda: 1000.0)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_JOB_END_TIME", slurm)
    assert seconds_to_end(setting) == seconds


def test_a_process_leaves_with_75_and_the_next_one_does_the_rest(tmp_path: Path) -> None:
    write_rows(tmp_path, 100)
    arguments = ("job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=slow.py", "engine.max_num_seqs=4")
    write_slow_job(tmp_path, 0.05)
    code, _, err = command(tmp_path, *arguments, "output.dir=out", f"launch.end_time={time.time() + 6}")
    assert code == 75, err
    write_slow_job(tmp_path, 0.0)
    code, _, err = command(tmp_path, *arguments, "output.dir=out", "resume.accept=[job.code]")
    assert code == 0, err
    assert sum(pads.dataset(tmp_path / "out" / "data", format="ipc").to_table()["row_id"].to_pylist()) == sum(
        range(100)
    )
