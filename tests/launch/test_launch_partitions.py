"""Partitions of one folder as processes: fixed and leased, side by side, one after another, killed."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from runner.report.history import history_of
from runner.report.metrics import read_metrics
from tests.launch.fleet import prepare, start_runner
from tests.run.commands import digests


def finish_all(processes: list) -> list[int]:
    return [(process.communicate(timeout=120), process.returncode)[1] for process in processes]


@pytest.mark.parametrize("partitions", [("0/3", "1/3", "2/3"), ("auto", "auto", "auto")])
def test_partitions_at_the_same_time_make_what_one_runner_makes(tmp_path: Path, partitions: tuple[str, ...]) -> None:
    whole = prepare(tmp_path, 60, seconds=0.01)
    processes = [start_runner(tmp_path, "out", partition) for partition in partitions]
    assert finish_all(processes) == [0, 0, 0]
    assert digests(tmp_path / "out") == whole
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["rows"] == 60
    measured = read_metrics(tmp_path / "out")
    assert Counter(line["kind"] for line in measured if line["kind"] != "sample") == {"start": 3, "end": 3}
    assert history_of(measured).answers == 60


def test_the_number_of_partitions_may_change_between_restarts(tmp_path: Path) -> None:
    whole = prepare(tmp_path, 60, seconds=0.02)
    for partitions in (("0/2", "1/2"), ("auto",), ("1/3",)):
        processes = [start_runner(tmp_path, "out", partition) for partition in partitions]
        wait_for_work(tmp_path / "out")
        for process in processes:
            process.kill()
        finish_all(processes)
    assert finish_all([start_runner(tmp_path, "out", "0/1")]) == [0]
    assert digests(tmp_path / "out") == whole


def wait_for_work(folder: Path) -> None:
    """Until a row has been journalled or committed since the call."""
    before = state(folder)
    deadline = time.monotonic() + 20
    while state(folder) == before and time.monotonic() < deadline:
        time.sleep(0.05)


def state(folder: Path) -> set[tuple[str, int]]:
    files = [*folder.glob(".runner/journals/*"), *folder.glob(".runner/commits/*.json")]
    return {(path.name, path.stat().st_size) for path in files if path.exists()}
