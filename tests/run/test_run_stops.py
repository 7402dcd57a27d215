"""Runs that are killed, stopped by signals or started twice, as processes with the stand-in engine."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import command, digests, read_data, start, write_rows, write_slow_job

SLOW = ("job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=slow.py", "output.rows_per_shard=20")
BRISK = ("output.sync_seconds=0.2", "engine.max_num_seqs=4")


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def wait_for_rows(process: subprocess.Popen[str], output: Path) -> None:
    """Until some rows are on the disk, and surely not all."""
    journals = output / ".runner" / "journals"
    wait_for(lambda: process.poll() is not None or any(path.stat().st_size > 2000 for path in journals.glob("*")))
    assert process.poll() is None


def test_a_kill_at_any_time_and_a_rerun_give_the_same_shards(tmp_path: Path) -> None:
    write_rows(tmp_path, 150)
    write_slow_job(tmp_path, 0.005)
    arguments = (*SLOW, *BRISK, "sampling.n=2")
    code, _, err = command(tmp_path, *arguments, "output.dir=whole")
    assert code == 0, err
    chance = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, *arguments, "output.dir=killed")
        wait_for_rows(process, tmp_path / "killed")
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
    code, _, err = command(tmp_path, *arguments, "output.dir=killed")
    assert code == 0, err
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_exits_75_soon_and_the_rerun_completes(tmp_path: Path, number: signal.Signals) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.005)
    process = start(tmp_path, *SLOW, *BRISK)
    wait_for_rows(process, tmp_path / "outputs" / "generate")
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert time.monotonic() - began < 20
    assert "run the same command again" in err
    write_slow_job(tmp_path, 0)
    code, _, err = command(tmp_path, *SLOW, *BRISK, "resume.accept=[job.code]")
    assert code == 0, err
    rows = read_data(tmp_path / "outputs" / "generate")
    assert [row["row_id"] for row in rows] == list(range(400))


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.02)
    process = start(tmp_path, *SLOW, "engine.max_num_seqs=200", "output.sync_seconds=0.2")
    wait_for_rows(process, tmp_path / "outputs" / "generate")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_any_moment_of_the_start_never_kills(tmp_path: Path, number: signal.Signals) -> None:
    """The handlers stand before anything heavy is imported; what comes later is polled."""
    write_rows(tmp_path, 3)
    write_slow_job(tmp_path, 0.5)
    for delay in (0.15, 0.3, 0.6, 0.9):
        process = start(tmp_path, *SLOW, "output.overwrite=true")
        wait_for(lambda process=process: _handles(process.pid, number))
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        # 0 where a drain after USR1 finished the three rows; a signal without a handler would give a negative code.
        assert process.returncode in (0, 75), err


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, from its SigCgt mask."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_second_runner_on_the_same_output_exits_73(tmp_path: Path) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.02)
    first = start(tmp_path, *SLOW, *BRISK)
    wait_for_rows(first, tmp_path / "outputs" / "generate")
    began = time.monotonic()
    code, _, err = command(tmp_path, *SLOW, *BRISK)
    first.kill()
    first.communicate()
    assert code == 73, err
    assert time.monotonic() - began < 10
    assert len(err.strip().splitlines()) == 1
