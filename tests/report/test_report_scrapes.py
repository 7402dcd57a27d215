"""The figures for Prometheus, scraped from a run that works and read back by Prometheus's own parser."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ConfigError
from runner.report import scrapes
from runner.report.meter import Meter
from runner.report.scrapes import ScrapePoint
from runner.types import EngineStats, RowError, RowResult, Stage

pytest.importorskip("prometheus_client")
ROOT = Path(__file__).resolve().parents[2]
SLOW_JOB = """
import time
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    time.sleep(0.004)
    return {}
"""


def scrape(port: int | None) -> dict[tuple[str, str], float]:
    """Values by name and second label."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            (label,) = [value for name, value in sample.labels.items() if name != "job_name"] or [""]
            found[sample.name, label] = sample.value
    return found


def seen(**engine: Any) -> dict[str, Any]:
    meter = Meter(10, 4, 99, 8)
    meter.lengths.add(5)
    meter.add_row(RowResult(0, errors=[RowError(0, Stage.PARSE, 'a"b\n\x1b', "")]))
    return {**meter.snapshot(1.0, EngineStats(**engine), {"empty": 0.5}), "quality_totals": {"empty": 1}}


def test_a_scrape_gets_the_last_snapshot() -> None:
    point = ScrapePoint("127.0.0.1", 0, "a job")
    try:
        assert scrape(point.port) == {}
        point.show(seen(num_running=4, completion_tokens=7, device="NVIDIA H100 80GB HBM3"))
        found = scrape(point.port)
    finally:
        point.close()
    assert found["batch_runner_rows_total", ""] == 1
    assert found["batch_runner_done_rows", ""] == 5
    assert found["batch_runner_completion_tokens_total", ""] == 7
    assert found["batch_runner_batch_fill_ratio", ""] == 0.5
    assert found["batch_runner_errors_total", 'a"b\n\x1b'] == 1
    assert found["batch_runner_bad_samples_ratio", "empty"] == 0.5
    assert found["batch_runner_card_ratio", "idle"] == 0
    assert ("batch_runner_left_seconds", "") not in found  # nothing is known of it
    assert ("batch_runner_card_ratio", "flops") not in found


def test_a_port_that_is_taken_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other, caplog.at_level(logging.WARNING):
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        point = ScrapePoint("127.0.0.1", port, "job")
        point.show(seen())
        point.close()
    assert f"metrics.port={port}" in caplog.text


def test_without_the_library_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^metrics.port=1: needs the extra prometheus; pip install"):
        ScrapePoint("127.0.0.1", 1, "job")


def test_a_run_can_be_scraped_while_it_works(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n' * 1000)
    (tmp_path / "slow.py").write_text(SLOW_JOB)
    arguments = ["job=generate", "job.module=slow.py", "engine=echo", "input.path=rows.jsonl", "output.dir=out"]
    arguments += ["metrics.port=0", "metrics.seconds=0.05"]
    command = [sys.executable, "-m", "runner", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)})
    assert process.stderr is not None
    try:
        port = next(int(hit[1]) for line in process.stderr if (hit := re.search(r"http://127.0.0.1:(\d+)/", line)))
        found: dict[tuple[str, str], float] = {}
        while not found.get(("batch_runner_rows_total", "")):
            assert process.poll() is None
            time.sleep(0.02)
            found = scrape(port)
    finally:
        process.kill()
        process.communicate()
    assert found["batch_runner_total_rows", ""] == 1000
