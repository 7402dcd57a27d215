"""launch=local and the status command, as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.cli.compose import compose
from runner.launch import find
from runner.launch.cards import visible_cards
from runner.launch.launchers.local import Worker, watch
from runner.launch.work import prepare as work_of
from runner.output import Surveyor
from runner.signals import Stop, StopFlag
from runner.status import describe
from tests.launch.fleet import SLOW, prepare, process_of, wait_for_parts
from tests.run.commands import ROOT, command, digests, start

LOCAL = (*SLOW, "output.dir=out", "launch=local")


def status(folder: Path) -> str:
    return "\n".join(describe(Surveyor(folder).look(), time.time()))


def test_processes_share_the_work(tmp_path: Path) -> None:
    whole = prepare(tmp_path, 60, seconds=0.02)
    code, _, err = command(tmp_path, *LOCAL, "launch.gpus=2")
    assert code == 0, err
    assert digests(tmp_path / "out") == whole
    assert "60/60 rows" in err
    text = status(tmp_path / "out")
    assert "60 of 60 rows (100%), done" in text
    assert "local-0" in text and "local-1" in text


@pytest.mark.parametrize(("leases", "partitions"), [("true", ["auto", "auto"]), ("false", ["0/2", "1/2"])])
def test_each_process_has_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], leases: str, partitions: list[str]
) -> None:
    given = [*LOCAL, "launch.gpus=2", f"launch.leases={leases}", "launch.end_time=2000.5", "launch.dry_run=true"]
    assert find("local").launch(work_of(compose(given), given, tmp_path), StopFlag()) == 0
    commands = [line.split() for line in capsys.readouterr().out.splitlines()]
    own = [[word for word in words if word.startswith(("partition=", "launch."))] for words in commands]
    assert own == [
        [f"partition={partition}", f"launch.task=local-{number}", "launch.end_time=2000.5"]
        for number, partition in enumerate(partitions)
    ]


def test_a_process_that_dies_does_not_stop_the_others(tmp_path: Path) -> None:
    whole = prepare(tmp_path, 100, seconds=0.05)
    process = start(tmp_path, *LOCAL, "launch.gpus=2")
    wait_for_parts(tmp_path / "out", 2)
    assert "running" in status(tmp_path / "out")
    os.kill(process_of("local-1"), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "process 1 ended with -9" in err
    assert digests(tmp_path / "out") == whole


def test_a_stop_reaches_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    whole = prepare(tmp_path, 100, seconds=0.04)
    process = start(tmp_path, *LOCAL, "launch.gpus=2")
    wait_for_parts(tmp_path / "out", 2)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped" in status(tmp_path / "out")
    assert command(tmp_path, *LOCAL, "launch.gpus=1")[0] == 0
    assert digests(tmp_path / "out") == whole


TRAPS = "trap 'exit 2' INT; trap 'exit 10' USR1; trap 'exit 15' TERM; touch up; while :; do sleep 0.02; done"


@pytest.mark.parametrize(("level", "number"), [(Stop.DRAIN, 2), (Stop.BRIEF, 10), (Stop.NOW, 15)])
def test_each_stop_is_passed_on_as_its_signal(tmp_path: Path, level: Stop, number: int) -> None:
    process = subprocess.Popen(["bash", "-c", TRAPS], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    worker, stop = Worker(0, process, tmp_path / "log"), StopFlag()
    worker.log.touch()
    stop.request(level)
    watch(work_of(compose(list(LOCAL)), LOCAL, tmp_path), [worker], stop)
    assert worker.code == number


def test_a_refusal_of_the_processes_is_the_launchers_exit_code(tmp_path: Path) -> None:
    code, _, err = command(tmp_path, "job=generate", "input.path=no.jsonl", "engine=echo", "launch=local")
    assert code == 64
    assert "no.jsonl" in err


def test_status_of_no_job_is_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "runner.status", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert len(done.stderr.strip().splitlines()) == 1


CARDS = {"0,1": ("0", "1"), "": (), "-1": (), "GPU-a, MIG-b": ("GPU-a", "MIG-b")}


@pytest.mark.parametrize(("value", "cards"), CARDS.items())
def test_the_environment_says_which_cards_there_are(monkeypatch, value: str, cards: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_cards() == cards


def test_an_unknown_launcher_names_those_there_are(tmp_path: Path) -> None:
    code, _, err = command(tmp_path, "job=generate", "input.path=x", "engine=echo", "launch.kind=pbs")
    assert code == 64
    assert "local, ray, slurm" in err
