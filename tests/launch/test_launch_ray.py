"""launch=ray on a Ray of this machine; skipped where Ray is not installed (it is an extra)."""

from __future__ import annotations

import os
import signal

import pytest

from runner.cli.compose import compose
from runner.errors import ConfigError
from runner.launch import find
from runner.launch.launchers.ray import _check_room, _needs
from runner.launch.work import prepare as work_of
from runner.signals import StopFlag
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


def test_tasks_that_ray_would_let_wait_for_ever_are_refused(tmp_path, monkeypatch) -> None:
    """A Ray as it is on a machine of two cores without a GPU."""
    (tmp_path / "ray.py").write_text(
        "def init(**options): pass\ndef shutdown(): pass\ndef cluster_resources(): return {'CPU': 2.0}\n"
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for more, key in (("launch.gpus=1", "launch.gpus=1: Ray has 0"), ("launch.cpus=4", "launch.cpus=4: Ray has 2")):
        code, _, err = command(tmp_path, *RAY, more)
        assert code == 64
        assert key in err


@pytest.mark.parametrize("gpus", ["-1", "1.5", "many", "nan", "1 2", ""])
def test_gpus_that_ray_does_not_take_are_refused(tmp_path, gpus) -> None:
    given = [*RAY, f"launch.gpus='{gpus}'", "launch.dry_run=true"]
    with pytest.raises(ConfigError, match=f"^launch.gpus={gpus}: give the GPUs of each task"):
        find("ray").launch(work_of(compose(given), given, tmp_path), StopFlag())


@pytest.mark.parametrize(("gpus", "needs"), [("0", 0.0), ("2", 2.0), ("0.5", 0.5), (".25", 0.25)])
def test_a_task_may_share_a_gpu(tmp_path, gpus, needs) -> None:
    given = [*RAY, f"launch.gpus='{gpus}'"]
    assert _needs(work_of(compose(given), given, tmp_path)) == {"cpus": 1.0, "gpus": needs}


def test_a_cluster_may_grow_into_what_tasks_need(caplog) -> None:
    _check_room({"CPU": 2.0}, {"cpus": 1.0, "gpus": 1.0}, can_grow=True)
    assert "launch.gpus=1: Ray has 0" in caplog.text and "cpus" not in caplog.text


def test_two_tasks_of_which_one_is_killed_make_what_one_process_makes(tmp_path) -> None:
    pytest.importorskip("ray")
    whole = prepare(tmp_path, 100, seconds=0.05)
    process = start(tmp_path, *RAY, "launch.cpus=1")
    wait_for_parts(tmp_path / "out", 3)
    os.kill(process_of("ray-1"), signal.SIGKILL)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert digests(tmp_path / "out") == whole


def test_a_worker_of_ray_that_is_killed_is_replaced(tmp_path) -> None:
    pytest.importorskip("ray")
    whole = prepare(tmp_path, 100, seconds=0.05)
    process = start(tmp_path, *RAY, "launch.leases=false")
    wait_for_parts(tmp_path / "out", 3)
    with open(f"/proc/{process_of('ray-0')}/stat") as file:  # noqa: PTH123 - not a file of ours
        worker = int(file.read().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert digests(tmp_path / "out") == whole


def test_a_stop_reaches_the_tasks_and_the_same_rows_go_on(tmp_path) -> None:
    pytest.importorskip("ray")
    whole = prepare(tmp_path, 100, seconds=0.05)
    process = start(tmp_path, *RAY)
    wait_for_parts(tmp_path / "out", 3)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert command(tmp_path, *SLOW, "output.dir=out")[0] == 0
    assert digests(tmp_path / "out") == whole
