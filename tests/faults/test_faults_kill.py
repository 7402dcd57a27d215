"""SIGKILL at every call to the file system, at random, during recovery, in the middle of a write."""

from __future__ import annotations

import random
import signal
import time

import pytest
from fault_checker import check_readable, check_redo, check_whole, contents
from fault_driver import run, start
from faulty_disk import CountingDisk, Dead, KillingDisk
from tiny_job import result_of, tiny_spec

from runner.output import Output

KILLED = -signal.SIGKILL
# A run of the tiny job makes about 200 calls; beyond them the run ends by itself and nothing is killed.
MOST_CALLS = 400


def kill_at(path, reference, at, **options):
    """Kills a run before call ``at``; False when it had so few that it ended."""
    code = run(path, make_disk=KillingDisk, disk_arguments={"at": at, **options})
    assert code in (0, KILLED)
    check_readable(path, reference)
    return code == KILLED


def finish(path, reference):
    assert run(path) == 0
    check_whole(path, reference)
    check_redo(path)
    assert run(path) == 0


@pytest.mark.parametrize("torn", [False, True])
def test_kill_at_some_calls(tmp_path, reference, torn):
    for at in range(1 + torn, 130, 13):
        path = tmp_path / f"out{at}"
        kill_at(path, reference, at, torn=torn)
        finish(path, reference)


class DyingAtPublication(CountingDisk):
    """Dies right after the first commit."""

    def reached(self, number):
        if any(call == "link" and path.parent.name == "commits" for call, path in self.calls[:-1]):
            raise Dead


def test_what_was_committed_is_published_when_the_next_run_opens(tmp_path, reference):
    path = tmp_path / "out"
    output = Output.open(path, tiny_spec(), DyingAtPublication())
    item = output.take_range()
    with pytest.raises(Dead):
        for row in range(item.start, item.stop):
            output.write(result_of(row))
        output.flush()
    output.close()
    assert contents(path) == {}
    with Output.open(path, tiny_spec()) as output:
        assert sorted(contents(path)) == ["data/part-00000.arrow", "errors/part-00000.arrow"]
        assert output.take_range().index == 1
    check_readable(path, reference)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("torn", [False, True])
def test_kill_at_every_call(tmp_path, reference, torn):
    for at in range(1, MOST_CALLS):
        path = tmp_path / f"out{at}"
        killed = kill_at(path, reference, at, torn=torn)
        finish(path, reference)
        if not killed:
            break
    assert 100 < at < MOST_CALLS - 1


def kill_in_recovery(tmp_path, reference, first, seconds):
    for second in seconds:
        path = tmp_path / f"out{first}-{second}"
        kill_at(path, reference, first)
        kill_at(path, reference, second)
        kill_at(path, reference, second + 3)
        finish(path, reference)


def test_kill_during_recovery_twice(tmp_path, reference):
    kill_in_recovery(tmp_path, reference, 75, range(1, 40, 7))


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", [12, 40, 55, 60, 65, 70, 75, 80, 85, 90, 120])
def test_kill_during_recovery_at_every_call(tmp_path, reference, first):
    kill_in_recovery(tmp_path, reference, first, range(1, 40))


def kill_at_random(tmp_path, reference, times, seed):
    """Kills until that many kills have hit, over as many jobs as it takes."""
    rng = random.Random(seed)
    hits = jobs = 0
    while hits < times:
        path = tmp_path / f"out{jobs}"
        jobs += 1
        for _ in range(6):
            process = start(path, seed=rng.randrange(100), flush_every=3)
            time.sleep(rng.random() * 0.15)
            process.kill()
            process.join()
            hits += process.exitcode == KILLED
            if path.exists():
                check_readable(path, reference)
        finish(path, reference)


def test_random_kills(tmp_path, reference):
    kill_at_random(tmp_path, reference, 10, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_two_hundred_random_kills(tmp_path, reference):
    kill_at_random(tmp_path, reference, 200, seed=2)
