"""Snapshots: shares of the time for each reader, the bottleneck, metrics.jsonl, and what a terminal is sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from runner.report.meter import Meter, Phases, bottleneck, shares_between
from runner.report.metrics import MetricsLog, last_measured, read_metrics
from runner.report.progress import Progress
from runner.report.view import TerminalView, log_line
from runner.types import EngineStats, RowError, RowResult, Stage

WAITING = {"prepare": 0.1, "wait": 0.8, "finish": 0.1}


def test_shares_add_up_and_each_reader_has_its_own() -> None:
    assert shares_between({}, {"prepare": 1.0, "wait": 3.0}) == {"prepare": 0.25, "wait": 0.75}
    assert shares_between({"prepare": 1.0}, {"prepare": 1.0, "wait": 3.0}) == {"prepare": 0.0, "wait": 1.0}
    assert shares_between({}, {"wait": 0.0}) == {"wait": 0.0}
    phases = Phases()
    phases.enter("wait")
    before = phases.totals()
    phases.enter("finish")
    assert phases.totals()["wait"] >= before["wait"]


@pytest.mark.parametrize(
    ("stats", "shares", "rows_left", "part"),
    [
        (EngineStats(), WAITING, 9, "loading"),
        (EngineStats(steps=1, num_running=8, num_waiting=5), {"prepare": 0.8, "finish": 0.1}, 9, "rendering rows: 80%"),
        (EngineStats(steps=1, num_running=8), {"prepare": 0.1, "finish": 0.8}, 9, "writing rows: 80%"),
        (EngineStats(0, 5, 95, 100, 1), WAITING, 9, "KV cache"),
        (EngineStats(num_running=3, num_waiting=5, kv_blocks_used=95, kv_blocks_total=100, steps=1), WAITING, 9, "KV"),
        (EngineStats(num_running=8, num_waiting=5, steps=1), WAITING, 9, "engine.max_num_seqs=8"),
        (EngineStats(num_running=3, steps=1), WAITING, 3, "tail: the last 3"),
        (EngineStats(num_running=3, steps=1), WAITING, 90, "too few rows"),
        (EngineStats(num_running=6, steps=1), WAITING, 90, "the engine"),
    ],
)
def test_the_bottleneck_is_named(stats: EngineStats, shares: dict[str, float], rows_left: int, part: str) -> None:
    assert part in bottleneck(stats, shares, 8, rows_left)


def snapshot(**engine: int) -> dict[str, Any]:
    meter = Meter(total_rows=10, done_rows=4, max_tokens=99, max_num_seqs=8)
    meter.lengths.add(5)
    meter.add_row(RowResult(0, errors=[RowError(0, Stage.PARSE, "\x1b[2Jbad", "")]))
    return meter.snapshot(EngineStats(**engine), {"empty": 0.5, "truncated": 0.0})


def test_a_log_line_has_what_matters() -> None:
    line = log_line(
        snapshot(kv_blocks_used=1, kv_blocks_total=4, prompt_tokens=5, cached_tokens=5, preemptions=2, num_running=3)
    )
    for part in ("5/10 rows", "3 running", "KV 25%", "prefix hits 50%", "2 preemptions", "bottleneck: "):
        assert part in line
    assert "\x1b" not in line


def test_a_terminal_is_sent_no_foreign_escapes() -> None:
    stream = io.StringIO()
    view = TerminalView(stream)
    view.draw(snapshot())
    view.close()
    assert "\x1b[2J" not in stream.getvalue()
    for part in ("5/10 rows, 50%", "empty 50%", "\\x1b[2Jbad 1", "bottleneck"):
        assert part in stream.getvalue()
    assert "truncated" not in stream.getvalue()


def test_metrics_hold_the_run_from_start_to_end(tmp_path: Path) -> None:
    (tmp_path / ".runner").mkdir()
    log = MetricsLog(tmp_path, "r1")
    log.append({"kind": "start", "model": "m"})
    progress = Progress(3, 0, 99, io.StringIO(), metrics=log, metrics_seconds=0.001)
    progress.enter("wait")
    progress.show(EngineStats(steps=1, completion_tokens=5))
    for _ in range(3):
        progress.add_sample(7)
        progress.add_row(RowResult(0))
        progress.show(EngineStats(steps=2, completion_tokens=21))
    progress.close()
    lines = read_metrics(tmp_path)
    assert [line["kind"] for line in (lines[0], lines[-1])] == ["start", "end"]
    assert {line["run"] for line in lines} == {"r1"}
    assert (lines[-1]["rows"], lines[-1]["samples"], lines[-1]["finished_tokens"]) == (3, 3, 21)
    measured = last_measured(tmp_path)
    assert measured is not None
    assert (measured.model, measured.samples, measured.mean_answer) == ("m", 3, 7.0)
