"""launch=ray on a Ray of this machine; skipped where Ray is not installed (it is an extra)."""

from __future__ import annotations

import os
import signal

import pytest

from tests.launch.fleet import SLOW, prepare, process_of, wait_for_parts
from tests.run.commands import command, digests, start

RAY = (*SLOW, "output.dir=out", "launch=ray", "launch.array=2", "launch.gpus=0")


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('hidden')\n")
    code, _, err = command(tmp_path, *RAY)
    assert code == 64
    assert "batch-runner[ray]" in err
    code, out, _ = command(tmp_path, *RAY, "launch.dry_run=true")
    assert code == 0 and "launch.task=ray-1" in out


def test_two_tasks_of_which_one_is_killed_make_what_one_process_makes(tmp_path) -> None:
    pytest.importorskip("ray")
    whole = prepare(tmp_path, 200, seconds=0.05)
    process = start(tmp_path, *RAY, "launch.cpus=1")
    wait_for_parts(tmp_path / "out", 3)
    os.kill(process_of("ray-1"), signal.SIGKILL)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert digests(tmp_path / "out") == whole


def test_a_worker_of_ray_that_is_killed_is_replaced(tmp_path) -> None:
    pytest.importorskip("ray")
    whole = prepare(tmp_path, 200, seconds=0.05)
    process = start(tmp_path, *RAY, "launch.leases=false")
    wait_for_parts(tmp_path / "out", 3)
    with open(f"/proc/{process_of('ray-0')}/stat") as file:  # noqa: PTH123 - not a file of ours
        worker = int(file.read().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert digests(tmp_path / "out") == whole
