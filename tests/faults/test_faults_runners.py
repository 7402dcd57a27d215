"""Several runners on one folder: one works, the others leave; one that slept overwrites nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fault_checker import check_readable, check_redo, check_whole, contents
from fault_driver import run, start
from faulty_disk import CountingDisk, SlowDisk, StoppingDisk

from runner.errors import ExitCode
from runner.output.verification import verify


def run_two(path, reference, **options):
    """The exit codes of two runs that start together; the folder is whole after them."""
    processes = [start(path, make_disk=SlowDisk, seed=seed, notes=f"{path}.{seed}", **options) for seed in (1, 2)]
    for process in processes:
        process.join()
    check_readable(path, reference)
    codes = sorted(process.exitcode for process in processes)
    assert run(path) == 0
    check_whole(path, reference)
    return codes


def locked_out(tmp_path, reference, times):
    """How often the second of two runners found the folder locked."""
    outcomes = [run_two(tmp_path / f"out{number}", reference) for number in range(times)]
    # A runner that comes so late that the other has ended finds the job done.
    assert all(codes in ([0, ExitCode.LOCKED], [0, 0]) for codes in outcomes)
    return sum(codes == [0, ExitCode.LOCKED] for codes in outcomes)


def test_two_runners_started_together(tmp_path, reference):
    assert locked_out(tmp_path, reference, 3) >= 2


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_two_runners_started_together_fifty_times(tmp_path, reference):
    assert locked_out(tmp_path, reference, 50) >= 45


def race_without_lock(tmp_path, reference, times):
    for number in range(times):
        codes = run_two(tmp_path / f"out{number}", reference, bypass_lock=True)
        assert set(codes) <= {ExitCode.DONE, ExitCode.IO}


def test_two_runners_past_the_lock(tmp_path, reference):
    race_without_lock(tmp_path, reference, 4)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_two_runners_past_the_lock_many_times(tmp_path, reference):
    race_without_lock(tmp_path, reference, 60)


def run_partitions(path, reference):
    processes = [
        start(path, make_disk=SlowDisk, partition=(number, 3), notes=f"{path}.{number}") for number in range(3)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    check_whole(path, reference)


def test_partitions_at_the_same_time(tmp_path, reference):
    for number in range(4):
        run_partitions(tmp_path / f"out{number}", reference)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_partitions_at_the_same_time_many_times(tmp_path, reference):
    for number in range(60):
        run_partitions(tmp_path / f"out{number}", reference)


def kill_partitions(tmp_path, reference, times, seed):
    """Partitions that start and are killed as they please lose no flushed row, also when their number changes."""
    rng = random.Random(seed)
    for number in range(times):
        path = tmp_path / f"out{number}"
        for _ in range(4):
            count = rng.choice([2, 3])
            processes = [
                start(path, seed=rng.randrange(99), flush_every=3, partition=(part, count), notes=str(path))
                for part in range(count)
            ]
            time.sleep(rng.random() * 0.08)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            if path.exists():
                check_readable(path, reference)
        assert run(path) == 0
        check_whole(path, reference)
        check_redo(path)


def test_killed_partitions(tmp_path, reference):
    kill_partitions(tmp_path, reference, 3, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_partitions_many_times(tmp_path, reference):
    kill_partitions(tmp_path, reference, 50, seed=2)


def wait_until_stopped(process):
    """False when it ended instead."""
    status = Path(f"/proc/{process.pid}/stat")
    while process.is_alive():
        with suppress(FileNotFoundError, ProcessLookupError):
            if status.read_text().rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.002)
    return False


def wake_a_stale_writer(path, reference, at):
    """Stops a run before call ``at``, breaks its lock, lets another finish, wakes the first; False past its end."""
    stale = start(path, make_disk=StoppingDisk, disk_arguments={"at": at}, notes=f"{path}.stale")
    stopped = wait_until_stopped(stale)
    for lock in (path / ".runner/locks").glob("*"):
        lock.unlink()
    assert run(path, seed=7) == 0
    check_whole(path, reference)
    before = contents(path)
    inodes = {name: (path / name).stat().st_ino for name in before}
    if stopped:
        os.kill(stale.pid, signal.SIGCONT)
    stale.join()
    assert stale.exitcode in (ExitCode.DONE, ExitCode.IO)
    assert contents(path) == before
    assert verify(path).notes == []
    assert {name: (path / name).stat().st_ino for name in before} == inodes
    assert run(path) == 0
    check_whole(path, reference)
    return stopped


def test_a_stale_writer_overwrites_nothing(tmp_path, reference):
    for at in range(8, 130, 9):
        wake_a_stale_writer(tmp_path / f"out{at}", reference, at)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_writer_gone_stale_at_every_call(tmp_path, reference):
    for at in range(1, 400):
        if not wake_a_stale_writer(tmp_path / f"out{at}", reference, at):
            break
    assert at > 100


class ClockMover(CountingDisk):
    """The wall clock jumps a day back and forth with every call."""

    def reached(self, number):
        now = time.monotonic()
        time.time = lambda: now + (-1) ** number * 86400.0


def test_a_clock_that_moves_changes_nothing(tmp_path, reference):
    assert run(tmp_path / "out", make_disk=ClockMover) == 0
    check_whole(tmp_path / "out", reference)
