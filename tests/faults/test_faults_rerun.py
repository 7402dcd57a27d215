"""Reruns, retries and extensions of a finished job, killed, stopped and refused: either generation, never a mixture."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from fault_checker import check_redo, contents
from fault_driver import run, start
from faulty_disk import KillingDisk, RefusingDisk, SlowDisk, StoppingDisk
from test_faults_disk import CODES
from test_faults_kill import KILLED
from test_faults_runners import wait_until_stopped
from tiny_job import run_job, tiny_spec

from runner.errors import ExitCode
from runner.output import Selection
from runner.output.verification import verify

_SETTINGS = tiny_spec().fingerprint
ORIGINAL = {"growable": ("input.limit",)}


def longer(key: str) -> bool:
    return key == "sampling.max_tokens"


CHANGES = {
    "rerun": {
        "selection": Selection(("length",), is_free=longer),
        "fingerprint": {**_SETTINGS, "sampling.max_tokens": 4096},
    },
    "retry": {"selection": Selection(error_codes=("any",), is_free=longer)},
    "extension": {
        "num_rows": 61,
        "fingerprint": {**_SETTINGS, "input.limit": 61},
        **ORIGINAL,
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp("done") / "out"
    run_job(path, tiny_spec())
    return path


@pytest.fixture(scope="module", params=CHANGES)
def change(request):
    return CHANGES[request.param]


@pytest.fixture(scope="module")
def goal(tmp_path_factory, done, change):
    """The parts after an uninterrupted rerun, retry or extension."""
    path = tmp_path_factory.mktemp("goal") / "out"
    shutil.copytree(done, path)
    run_job(path, tiny_spec(**change))
    found = contents(path)
    assert found != contents(done)
    return found


def stamps(path: Path) -> dict[Path, int]:
    return {item: item.stat().st_mtime_ns for item in path.rglob("*") if item.is_file()}


def check_either(path, done, goal):
    """Readers see each part as it was or as it will be."""
    before = contents(done)
    for name, data in contents(path).items():
        assert data in (before.get(name), goal.get(name)), f"{name} is neither generation"


def finish(path, done, goal, change):
    """The original command leaves what was begun; the same command ends it; then both change nothing."""
    assert run(path, **ORIGINAL) == ExitCode.DONE
    check_either(path, done, goal)
    assert run(path, **change) == ExitCode.DONE
    assert contents(path) == goal
    report = verify(path)
    assert report.damages == [] and report.notes == [] and (path / "_SUCCESS").exists()
    check_redo(path)
    before = stamps(path)
    assert run(path, **change) == run(path, **ORIGINAL) == ExitCode.DONE
    assert stamps(path) == before


def copy(done, path):
    shutil.copytree(done, path)
    return path


def kill_at_calls(tmp_path, done, goal, change, calls, *, torn=False):
    for at in calls:
        path = copy(done, tmp_path / f"out{at}-{torn}")
        code = run(path, make_disk=KillingDisk, disk_arguments={"at": at, "torn": torn}, **change)
        check_either(path, done, goal)
        finish(path, done, goal, change)
        if code == ExitCode.DONE:
            return at
        assert code == KILLED
        shutil.rmtree(path)
    return None


def test_kill_at_some_calls(tmp_path, done, goal, change):
    kill_at_calls(tmp_path, done, goal, change, range(2, 110, 27))


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("torn", [False, True])
def test_kill_at_every_call(tmp_path, done, goal, change, torn):
    assert kill_at_calls(tmp_path, done, goal, change, range(1, 400), torn=torn) > 40


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_kill_during_recovery_too(tmp_path, done, goal, change):
    for first in range(10, 110, 8):
        for second in range(1, 30, 4):
            path = copy(done, tmp_path / f"out{first}-{second}")
            for at in (first, second, second + 3):
                run(path, make_disk=KillingDisk, disk_arguments={"at": at}, **change)
                check_either(path, done, goal)
            finish(path, done, goal, change)
            shutil.rmtree(path)


def random_kills(tmp_path, done, goal, change, jobs):
    chance = random.Random(jobs)
    for number in range(jobs):
        path = copy(done, tmp_path / f"out{number}")
        for _ in range(3):
            process = start(path, seed=chance.randrange(100), flush_every=2, **change)
            time.sleep(chance.random() * 0.08)
            process.kill()
            process.join()
            check_either(path, done, goal)
        finish(path, done, goal, change)


def test_random_kills(tmp_path, done, goal, change):
    random_kills(tmp_path, done, goal, change, 1)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_many_random_kills(tmp_path, done, goal, change):
    random_kills(tmp_path, done, goal, change, 30)


def refused_at_calls(tmp_path, done, goal, change, calls):
    for at in calls:
        path = copy(done, tmp_path / f"out{at}")
        arguments = {"at": at, "errno": CODES[at % len(CODES)], "for_good": at % 2 == 0}
        code = run(path, make_disk=RefusingDisk, disk_arguments=arguments, **change)
        assert code in (ExitCode.DONE, ExitCode.IO)
        check_either(path, done, goal)
        finish(path, done, goal, change)
        if code == ExitCode.DONE:
            return
        shutil.rmtree(path)


def test_refused_at_some_calls(tmp_path, done, goal, change):
    refused_at_calls(tmp_path, done, goal, change, range(3, 110, 37))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_refused_at_every_call(tmp_path, done, goal, change):
    refused_at_calls(tmp_path, done, goal, change, range(1, 400))


def stale_at_calls(tmp_path, done, goal, change, calls):
    """A writer that slept since before a call, its lock broken, wakes up after another has ended the same work."""
    for at in calls:
        path = copy(done, tmp_path / f"out{at}")
        stale = start(path, make_disk=StoppingDisk, disk_arguments={"at": at}, notes=f"{path}.stale", **change)
        stopped = wait_until_stopped(stale)
        for lock in (path / ".runner/locks").glob("*"):
            lock.unlink()
        assert run(path, seed=7, **change) == ExitCode.DONE
        assert contents(path) == goal
        if stopped:
            os.kill(stale.pid, signal.SIGCONT)
        stale.join()
        assert stale.exitcode in (ExitCode.DONE, ExitCode.IO, ExitCode.LOCKED)
        assert contents(path) == goal
        # A job that is done is only looked at: what the late one left there would stay.
        assert verify(path).notes == []
        finish(path, done, goal, change)
        if not stopped:
            return
        shutil.rmtree(path)


def test_a_stale_writer_overwrites_no_newer_generation(tmp_path, done, goal, change):
    stale_at_calls(tmp_path, done, goal, change, range(5, 110, 31))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_writer_gone_stale_at_every_call(tmp_path, done, goal, change):
    stale_at_calls(tmp_path, done, goal, change, range(1, 400))


def stale_original_at_calls(tmp_path, change, calls):
    """The first run slept through its job's end and its rerun."""
    whole = tmp_path / "whole"
    run_job(whole, tiny_spec())
    run_job(whole, tiny_spec(**change))
    goal = contents(whole)
    for at in calls:
        path = tmp_path / f"out{at}"
        stale = start(path, make_disk=StoppingDisk, disk_arguments={"at": at}, notes=f"{path}.stale")
        stopped = wait_until_stopped(stale)
        for lock in (path / ".runner/locks").glob("*"):
            lock.unlink()
        assert run(path, seed=7) == run(path, seed=7, **change) == ExitCode.DONE
        if stopped:
            os.kill(stale.pid, signal.SIGCONT)
        stale.join()
        assert contents(path) == goal, at
        report = verify(path)
        assert report.damages == [] and report.notes == []
        if not stopped:
            return
        shutil.rmtree(path)


def test_a_writer_that_slept_through_the_rerun(tmp_path, change):
    stale_original_at_calls(tmp_path, change, range(20, 200, 53))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_writer_that_slept_through_the_rerun_at_every_call(tmp_path, change):
    stale_original_at_calls(tmp_path, change, range(8, 400))


def test_partitions_at_the_same_time(tmp_path, done, goal, change):
    for number in range(2):
        path = copy(done, tmp_path / f"out{number}")
        processes = [start(path, make_disk=SlowDisk, partition=(w, 3), notes=f"{path}.{w}", **change) for w in range(3)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
        finish(path, done, goal, change)
