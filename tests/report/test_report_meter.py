"""Snapshots: what is shown, shares of the time for each reader, the bottleneck, metrics, what a terminal is sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from runner.report.bottleneck import bottleneck
from runner.report.cards import CARDS, ModelShape, card_of_device
from runner.report.meter import Meter, Phases
from runner.report.metrics import MetricsLog, last_measured, read_metrics
from runner.report.progress import Progress
from runner.report.throughput import Reading
from runner.report.usage import Usage, shares_between, usage_between
from runner.report.view import TerminalView, log_line
from runner.types import EngineStats, RowError, RowResult, Stage

H100 = "NVIDIA H100 80GB HBM3"
SHAPE = ModelShape(step_bytes=15e9, weight_bytes=16e9, decode_flops=15e9, prefill_flops=14e9, kv_bytes=131072)
IDLE = {"read": 0.1, "render": 0.1, "wait": 0.7, "finish": 0.05, "write": 0.05}


def test_shares_add_up() -> None:
    assert shares_between({}, {"render": 1.0, "wait": 3.0}) == {"render": 0.25, "wait": 0.75}
    assert shares_between({"render": 1.0}, {"render": 1.0, "wait": 3.0}) == {"render": 0.0, "wait": 1.0}
    assert shares_between({}, {"wait": 0.0}) == {"wait": 0.0}
    phases = Phases()
    phases.enter("wait")
    before = phases.totals()
    phases.enter("finish")
    assert phases.totals()["wait"] >= before["wait"]


def stretch(**after: Any) -> tuple[Reading, Reading]:
    """Ten seconds in which this process worked for one: 0.6 s of it read and wrote."""
    phases = {"read": 0.4, "render": 0.2, "finish": 0.2, "write": 0.2, "wait": 9.0}
    return Reading(100.0, EngineStats(), {}), Reading(110.0, EngineStats(**after), phases)


def test_time_goes_to_prefill_decode_host_and_io() -> None:
    usage = usage_between(*stretch(prefill_seconds=2.0, decode_seconds=5.0, idle_seconds=1.0), None, None)
    # 2 s are left: the device had no work, and 0.6 of what this process did meanwhile was reading and writing
    assert (usage.prefill, usage.decode, usage.host, usage.io) == (0.2, 0.5, 0.18, 0.12)
    assert usage.idle == pytest.approx(0.3)
    assert (usage.flops, usage.bandwidth) == (None, None)


def test_counters_that_came_a_little_late_still_add_up() -> None:
    usage = usage_between(*stretch(prefill_seconds=4.0, decode_seconds=8.0), None, None)
    assert usage.prefill + usage.decode + usage.host + usage.io == pytest.approx(1.0)


def test_the_use_of_a_card_is_of_its_data_sheet() -> None:
    counted = {"steps": 1000, "kv_tokens_read": 60_000_000, "prompt_tokens": 100_000, "completion_tokens": 100_000}
    usage = usage_between(*stretch(decode_seconds=10.0, **counted), SHAPE, card_of_device(H100))
    assert usage.flops == pytest.approx((100_000 * 14e9 + 100_000 * 15e9) / 10 / 989e12, abs=1e-4)
    assert usage.bandwidth == pytest.approx((1000 * 15e9 + 60e6 * 131072) / 10 / 3.35e12, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        (H100, "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100_40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_a_driver_names_its_card(name: str, card: str) -> None:
    assert card_of_device(name) is CARDS[card]


@pytest.mark.parametrize("name", ["", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 D", "cpu"])
def test_an_unknown_card_is_not_taken_for_another(name: str) -> None:
    assert card_of_device(name) is None


def stats(running: int, waiting: int = 0, **more: Any) -> EngineStats:
    return EngineStats(steps=1, num_running=running, num_waiting=waiting, **more)


@pytest.mark.parametrize(
    ("stats", "phases", "usage", "rows_left", "part"),
    [
        (EngineStats(), IDLE, Usage(), 9, "loading"),
        (stats(8, 5), {"render": 0.8, "finish": 0.1}, Usage(), 9, "rendering prompts: 80%"),
        (stats(8), {"render": 0.1, "write": 0.8}, Usage(), 9, "writing rows: 80%"),
        (stats(3, 5, kv_blocks_used=95, kv_blocks_total=100), IDLE, Usage(), 9, "KV cache is full at 3"),
        (stats(8, 5), IDLE, Usage(), 9, "engine.max_num_seqs=8"),
        (stats(3), IDLE, Usage(), 3, "tail: the last 3"),
        (stats(3), IDLE, Usage(), 90, "too few rows"),
        (stats(6), IDLE, Usage(), 90, "the engine"),
        (stats(8, 5, device=H100), IDLE, Usage(0.1, 0.6, 0.2, 0.1), 90, "the GPU waits 30%"),
        (stats(8, 5), IDLE, Usage(0.1, 0.6, 0.2, 0.1), 90, "engine.max_num_seqs=8"),
        (stats(8, 5, device=H100), IDLE, Usage(0.2, 0.8, flops=0.2, bandwidth=0.8), 90, "80% of its bandwidth"),
        (stats(8, 5, device=H100), IDLE, Usage(0.4, 0.6, flops=0.5, bandwidth=0.3), 90, "arithmetic: 50%"),
        (stats(8, 5), IDLE, Usage(prefill=0.7, decode=0.3), 90, "reading prompts: 70%"),
    ],
)
def test_the_bottleneck_is_named(
    stats: EngineStats, phases: dict[str, float], usage: Usage, rows_left: int, part: str
) -> None:
    assert part in bottleneck(stats, phases, usage, 8, rows_left, 8)
    assert bottleneck(stats, phases, usage, 8, rows_left=0, most_running=8) == ""


def test_what_runs_all_at_once_is_no_tail_before_half_of_it_is_done() -> None:
    assert bottleneck(stats(6), IDLE, Usage(), 8, 6, 8) == "few rows: the 6 that are left run at once"
    assert bottleneck(stats(1), IDLE, Usage(), 8, 1, 1) == "a single answer"
    assert bottleneck(stats(4), IDLE, Usage(), 8, 4, 8) == "the tail: the last 4 answers"
    meter = a_meter()
    for running, said in ((6, "few rows: the 5 that are left run at once"), (40, "the tail: the last 5 answers")):
        meter.note(running, EngineStats(steps=running, num_running=running))
        assert meter.snapshot(running, stats(5), {})["bottleneck"] == said


def a_meter() -> Meter:
    meter = Meter(total_rows=10, done_rows=4, max_tokens=99, max_num_seqs=8, shape=SHAPE)
    meter.phases.enter("wait")
    meter.add_taken(6, 6)
    meter.lengths.add(5)
    meter.add_row(RowResult(0, errors=[RowError(0, Stage.PARSE, "\x1b[2Jbad", "")]))
    return meter


def snapshot(**engine: Any) -> dict[str, Any]:
    """After ten seconds of an engine that ends with these counters."""
    meter, stats = a_meter(), EngineStats(**{"steps": 100, **engine})
    meter.note(100.0, EngineStats(steps=1, device=stats.device))
    meter.note(110.0, stats)
    return meter.snapshot(110.0, stats, {"empty": 0.5, "truncated": 0.0})


def test_each_reader_has_shares_of_its_own_time() -> None:
    meter = a_meter()
    seen = []
    for second, prefill in ((0.0, 0.0), (10.0, 10.0), (20.0, 10.0)):
        stats = EngineStats(steps=int(second) + 1, prefill_seconds=prefill, decode_seconds=second - prefill)
        meter.note(second, stats)
        seen.append(meter.snapshot(second, stats, {}, "metrics")["usage"]["prefill"])
    assert seen == [0.0, 1.0, 0.0]
    assert meter.snapshot(20.0, stats, {})["usage"]["prefill"] == 0.5


def test_the_first_step_counts_though_it_is_over_when_its_counters_come() -> None:
    meter = a_meter()
    meter.note(100.0, EngineStats(steps=1, prefill_seconds=8.0, prompt_tokens=800, num_running=5))
    shown = meter.snapshot(100.0, EngineStats(steps=1, num_running=5), {})
    assert (shown["generating_seconds"], shown["prompt_tokens_per_second"]) == (8.0, 100.0)
    assert shown["usage"]["prefill"] == 1.0


def test_a_new_engine_counts_anew() -> None:
    meter = a_meter()
    meter.note(0.0, EngineStats(steps=50, decode_seconds=9.0))
    meter.snapshot(0.0, EngineStats(steps=50), {}, "metrics")
    meter.note(10.0, EngineStats(steps=1))
    meter.note(20.0, EngineStats(steps=20, decode_seconds=5.0))
    for reader in ("metrics", None):
        usage = meter.snapshot(20.0, EngineStats(steps=20), {}, reader)["usage"]
        assert (usage["decode"], usage["prefill"]) == (0.5, 0.0)


def test_a_log_line_has_what_matters() -> None:
    counted = {"prompt_tokens": 5, "cached_tokens": 5, "preemptions": 2, "num_running": 3, "decode_seconds": 9.0}
    line = log_line(snapshot(kv_blocks_used=1, kv_blocks_total=4, device=H100, kv_tokens_read=10**8, **counted))
    parts = ["5/10 rows", "3 running (batch 38% full)", "KV 25%", "prefix hits 50%", "2 preemptions", "bottleneck: "]
    parts += ["prefill 0%, decode 90%, host 10%, I/O 0%", "GPU idle 10%, MFU 0%, memory bandwidth 44%"]
    for part in parts:
        assert part in line
    assert "\x1b" not in line
    shared = log_line(snapshot(device=H100, kv_tokens_read=2 * 10**8, kv_tokens_shared=10**8, **counted))
    assert "memory bandwidth 44%" in shared  # what serves several is read once


def test_a_cpu_is_not_measured_as_a_card() -> None:
    line = log_line(snapshot(num_running=3, decode_seconds=9.0, kv_tokens_read=10**8))
    assert "decode 90%" in line
    assert "GPU" not in line
    assert "MFU" not in line


def test_a_terminal_is_sent_no_foreign_escapes() -> None:
    stream = io.StringIO()
    view = TerminalView(stream)
    view.draw(snapshot(decode_seconds=9.0, device=H100))
    view.close()
    assert "\x1b[2J" not in stream.getvalue()
    for part in ("5/10 rows, 50%", "empty 50%", "\\x1b[2Jbad 1", "bottleneck", "decode 90%", "GPU idle 10%"):
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
    assert lines[-1]["usage"].keys() == {"prefill", "decode", "host", "io", "flops", "bandwidth"}
    measured = last_measured(tmp_path)
    assert measured is not None
    assert (measured.model, measured.samples, measured.mean_answer) == ("m", 3, 7.0)


def test_the_time_left_with_an_engine_that_answers_at_once_is_that_of_the_rows() -> None:
    for running, left in ((0, 40.0), (3, None)):
        meter, stats = a_meter(), EngineStats(steps=100, completion_tokens=500, decode_seconds=9.0, num_running=running)
        meter.note(100.0, EngineStats(steps=1))
        first = meter.snapshot(100.0, stats, {})
        assert first["seconds_left_by_rows"] is None  # the row that it had by then says nothing of the time
        meter.add_row(RowResult(0))
        meter.note(110.0, stats)
        shown = meter.snapshot(110.0, stats, {})
        assert shown["seconds_left_by_rows"] == 40.0
        assert (shown["seconds_left"] == 40.0) is (left == 40.0)


def test_before_a_second_reading_the_phases_are_those_since_the_beginning() -> None:
    meter = a_meter()
    with mock.patch.object(Phases, "totals", return_value={"read": 1.0, "render": 9.0}):
        meter.note(100.0, EngineStats(steps=1))
    shown = meter.snapshot(100.0, EngineStats(steps=1), {})
    assert shown["phases"] == {"read": 0.1, "render": 0.9}
    assert shown["bottleneck"] == "this process, rendering prompts: 90% of its time"
