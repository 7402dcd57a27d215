"""Rates, the estimate of what is left, and what is shown where."""

from __future__ import annotations

import io
import logging

import pytest

from runner.report import progress as module
from runner.report.progress import Progress
from runner.report.throughput import Lengths, Throughput, duration
from runner.types import EngineStats, RowError, RowResult, Stage


def test_rates_are_over_the_window() -> None:
    throughput = Throughput()
    for second in range(0, 200, 10):
        rate = 100 if second < 100 else 10
        throughput.add(float(second), EngineStats(prompt_tokens=second, completion_tokens=100 * 100 + rate * second))
    rates = throughput.rates()
    assert rates.prompt == pytest.approx(1.0)
    assert rates.completion == pytest.approx(10.0)


def test_a_new_engine_starts_a_new_window() -> None:
    throughput = Throughput()
    throughput.add(0.0, EngineStats(completion_tokens=1000))
    throughput.add(10.0, EngineStats(completion_tokens=50))
    assert throughput.rates().completion == 0
    throughput.add(20.0, EngineStats(completion_tokens=150))
    assert throughput.rates().completion == pytest.approx(10.0)


def test_what_is_left_comes_from_lengths_not_from_rows() -> None:
    lengths = Lengths(limit=1000)
    assert lengths.seconds_left(10, 0, 0, rate=5.0) is None
    for tokens in (10, 30):
        lengths.add(tokens)
    assert lengths.seconds_left(10, 0, 0, rate=4.0) == pytest.approx(10 * 20 / 4)
    assert lengths.seconds_left(10, 0, 0, rate=0.0) is None


def test_answers_that_still_run_count_against_the_short_ones_that_finished_first() -> None:
    lengths = Lengths(limit=256)
    lengths.add(10)
    assert lengths.seconds_left(0, 9, running_tokens=9 * 50, rate=9.0) == pytest.approx(256 - 50)
    lengths = Lengths(limit=10_000)
    lengths.add(10)
    assert lengths.seconds_left(0, 9, running_tokens=9 * 50, rate=9.0) == pytest.approx(10 + 9 * 50)


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    lengths = Lengths(limit=100)
    lengths.add(90)
    assert lengths.seconds_left(0, 1, running_tokens=95, rate=1.0) == pytest.approx(5)
    assert lengths.seconds_left(2, 1, running_tokens=95, rate=1.0) == pytest.approx(2 * 100 + 5)


def test_a_straggler_may_take_longer_than_the_bulk() -> None:
    lengths = Lengths(limit=2000)
    for tokens in (10, 10, 1000):
        lengths.add(tokens)
    assert lengths.seconds_left(1, 8, running_tokens=0, rate=100.0) == pytest.approx(1000 * 8 / 100)


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    progress = Progress(total_rows=10, done_rows=4, max_tokens=99, stream=stream)
    progress.add_sample(5)
    progress.add_row(RowResult(0, errors=[RowError(0, Stage.PARSE, "no_tokens", "")]))
    progress.show(EngineStats(num_running=3, num_waiting=2, kv_blocks_used=1, kv_blocks_total=4))
    progress.close()
    return progress


def test_a_terminal_gets_a_view(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stream = Terminal()
    with caplog.at_level(logging.INFO):
        shown(stream, monkeypatch)
    for part in ("5/10 rows", "3 running, 2 waiting", "KV 25%", "1 failed (no_tokens 1)", "bottleneck"):
        assert part in stream.getvalue()
    assert not caplog.records


def test_elsewhere_there_are_log_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO):
        progress = shown(stream, monkeypatch)
    assert stream.getvalue() == ""
    assert "5/10 rows" in caplog.text
    assert progress.completion_tokens == 5
