"""launch=local and the status command, as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runner.cli.compose import compose
from runner.errors import ConfigError
from runner.launch import find
from runner.launch.cards import visible_cards
from runner.launch.launchers.local import Worker, watch
from runner.launch.work import prepare as work_of
from runner.output import Attempt, Survey, Surveyor
from runner.output.commits import Totals
from runner.signals import Stop, StopFlag
from runner.status import describe, shown
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
    whole = prepare(tmp_path, 60, seconds=0.05)
    process = start(tmp_path, *LOCAL, "launch.gpus=2")
    wait_for_parts(tmp_path / "out", 2)
    assert "running" in status(tmp_path / "out")
    os.kill(process_of("local-1"), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "process 1 was ended by signal 9" in err
    assert digests(tmp_path / "out") == whole


def test_status_shows_who_died_before_it_finished_a_row() -> None:
    """Its last life, until the job is done."""

    def leasing(number: int, task: str, *, has_progress: bool = False) -> Attempt:
        return Attempt(number, "auto", task, "node", number, 0.0, 0.0, 0, has_progress, is_running=False)

    attempts = (
        leasing(1, "local-0", has_progress=True),
        leasing(2, "local-1"),
        leasing(3, "local-0"),
        leasing(4, "local-1"),
    )
    survey = Survey(None, 0, Totals(), is_done=False, attempts=attempts, shares={})  # type: ignore[arg-type]
    assert shown(survey) == [attempts[0], *attempts[2:]]
    assert shown(replace(survey, is_done=True)) == [attempts[0]]


def test_a_stop_reaches_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    whole = prepare(tmp_path, 60, seconds=0.04)
    process = start(tmp_path, *LOCAL, "launch.gpus=2")
    wait_for_parts(tmp_path / "out", 2)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped" in status(tmp_path / "out")
    assert command(tmp_path, *LOCAL, "launch.gpus=1")[0] == 0
    assert digests(tmp_path / "out") == whole


@pytest.mark.parametrize("level", [Stop.DRAIN, Stop.BRIEF, Stop.NOW])
def test_a_stop_before_the_processes_have_their_handlers_is_not_lost(tmp_path: Path, level: Stop) -> None:
    prepare(tmp_path, 100, seconds=0.1)
    stop = StopFlag()
    stop.request(level)
    assert find("local").launch(work_of(compose([*LOCAL, "launch.gpus=2"]), LOCAL, tmp_path), stop) == 75
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_a_process_whose_log_is_gone_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failed = Worker(0, subprocess.Popen(["false"]), tmp_path / "gone.log")
    other = Worker(1, subprocess.Popen(["sleep", "0.5"]), tmp_path / "other.log")
    watch(work_of(compose(list(LOCAL)), LOCAL, tmp_path), [failed, other], StopFlag())
    assert (failed.code, other.code) == (1, 0)
    assert "process 0 ended with exit code 1" in caplog.text


@pytest.mark.parametrize(("endings", "code"), [("kill -9 $$", 75), ("test $1 = 0 || kill -9 $$", 75), ("exit 9", 1)])
def test_what_signals_have_ended_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endings: str, code: int
) -> None:
    """All processes, or those that were left of them; any exit code of their own that is not known is a bug."""
    numbered = "for word; do case $word in launch.task=local-*) set -- ${word#launch.task=local-};; esac; done"
    child = write_program(tmp_path / "python", f"#!/bin/sh\n{numbered}\n{endings}\n")
    monkeypatch.setattr(sys, "executable", str(child))
    given = [*LOCAL, "launch.gpus=2"]
    assert find("local").launch(work_of(compose(given), given, tmp_path), StopFlag()) == code


TRAPS = "trap 'exit 2' INT; trap 'exit 10' USR1; trap 'exit 15' TERM; touch up; while :; do sleep 0.02; done"


@pytest.mark.parametrize(("level", "number"), [(Stop.DRAIN, 2), (Stop.BRIEF, 10), (Stop.NOW, 15)])
def test_each_stop_is_passed_on_as_its_signal(tmp_path: Path, level: Stop, number: int) -> None:
    # A shell cannot trap what was ignored before it: under nohup, or in the background, SIGINT is.
    child = ["env", "--default-signal=INT", "bash", "-c", TRAPS]
    process = subprocess.Popen(child, cwd=tmp_path, start_new_session=True)
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


LISTED = """#!/bin/sh
echo 'GPU 0: NVIDIA H200 (UUID: GPU-0)'
echo '  MIG 1g.18gb Device 0: (UUID: MIG-0)'
echo 'GPU 1: NVIDIA H200 (UUID: GPU-1)'
"""


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("listing", "count"), [(LISTED, 2), ("#!/bin/sh\nexit 9\n", 3), (None, 3)])
def test_the_driver_counts_the_cards_and_without_its_program_the_device_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str | None, count: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia7", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    if listing is not None:
        write_program(tmp_path / "nvidia-smi", listing)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_cards(tmp_path / "dev") == tuple(map(str, range(count)))


CHILD = """#!/bin/sh
echo "card $CUDA_VISIBLE_DEVICES threads $OMP_NUM_THREADS packages $PYTHONPATH arguments $*"
test "$CUDA_VISIBLE_DEVICES" != GPU-a
"""


def test_each_process_gets_a_card_of_its_own_and_one_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Packages may come by PYTHONPATH alone, on a machine without an environment of ours."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setenv("PYTHONPATH", "/packages")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32))
    monkeypatch.setattr(sys, "executable", str(write_program(tmp_path / "python", CHILD)))
    given = ["job=generate", "input.path=rows.jsonl", "output.dir=out", "launch=local"]
    with caplog.at_level("INFO"):
        assert find("local").launch(work_of(compose(given), given, tmp_path), StopFlag()) == 1
    logs = [path.read_text() for path in sorted((tmp_path / "out/.runner/launch").iterdir())]
    assert [log.split(" arguments")[0] for log in logs] == [
        f"card {card} threads 16 packages {ROOT}:/packages" for card in ("GPU-a", "GPU-b")
    ]
    assert all(
        f"arguments -m runner {given[0]} " in log and f"launch.task=local-{i}" in log for i, log in enumerate(logs)
    )
    assert "one each on card GPU-a, GPU-b" in caplog.text and "process 0 ended with exit code 1" in caplog.text


def test_starting_processes_loads_no_torch(tmp_path: Path) -> None:
    """CUDA that the launcher has initialised could not be divided among its processes."""
    program = (
        "import sys; from runner.__main__ import main; "
        f"main(['job=generate', 'input.path=x', 'output.dir={tmp_path}/out', 'launch=local', 'launch.dry_run=true']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_launcher_names_those_there_are(tmp_path: Path) -> None:
    code, _, err = command(tmp_path, "job=generate", "input.path=x", "engine=echo", "launch.kind=pbs")
    assert code == 64
    assert "local, ray, slurm" in err


@pytest.mark.parametrize("gpus", ["0", "00", "²", "-1", "two"])
def test_what_is_no_number_of_processes_is_refused(tmp_path: Path, gpus: str) -> None:
    with pytest.raises(ConfigError, match=f"^launch.gpus={gpus}: give a number of processes"):
        find("local").launch(work_of(compose([*LOCAL, f"launch.gpus='{gpus}'"]), LOCAL, tmp_path), StopFlag())
