"""Leases: exactly once whatever dies, nobody idle beside free work, and a holder that wakes up late is harmless."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from runner.output import Output, OutputSpec, Surveyor, plan_columns, share
from runner.output.disk import Disk
from runner.output.folder import Folder
from runner.output.job import read_job
from runner.output.layout import Layout
from runner.output.leases import Leases
from runner.output.verification import verify
from runner.types import RowResult

SHARD, ROWS = 5, 400
CONTEXT = multiprocessing.get_context("fork")
COLUMNS = plan_columns(pa.schema([("n", pa.int64())]), parsed={}, keep_prompt="none", prefix="")


def spec(**changes) -> OutputSpec:
    options = {"partition": None, "rows_per_shard": SHARD, "sync_seconds": 0.1, "max_open_ranges": 4, **changes}
    return OutputSpec("leases", COLUMNS, options.pop("num_rows", ROWS), {}, **options)


def record(row: int) -> dict:
    own = {"row_id": row, "request_index": 0, "sample_index": 0, "completion": f"answer {row}", "finish_reason": "stop"}
    return {"n": row, **own, "prompt_tokens": 1, "completion_tokens": 2, "seed": row, "model": "none"}


def work(path: Path, seconds: float, **changes) -> None:
    """One runner: ``seconds`` a row; notes when it ended and after how many ranges."""
    with Output.open(path, spec(**changes)) as output:
        waiting: list[int] = []
        while waiting or output.ranges_left:
            item = output.take_range()
            if item is not None:
                waiting += [row for row in range(item.start, item.stop) if row not in item.done]
            if waiting:
                row = waiting.pop(0)
                time.sleep(seconds)
                output.write(RowResult(row, records=[record(row)]))
        output.finish()
    os._exit(0)


def start(path: Path, seconds: float, **changes):
    process = CONTEXT.Process(target=work, args=(path, seconds), kwargs=changes)
    process.start()
    return process


def check(path: Path, num_rows: int = ROWS) -> None:
    report = verify(path)
    assert report.damages == []
    assert report.folder.totals().rows == num_rows
    assert json.loads((path / "_SUCCESS").read_text())["rows"] == num_rows


def test_eight_processes_with_random_kills_do_every_row_once(tmp_path: Path) -> None:
    path, chance = tmp_path / "out", random.Random(1)
    processes = [start(path, 0.004) for _ in range(8)]
    for _ in range(8):
        time.sleep(0.05 + chance.random() * 0.1)
        victim = chance.randrange(1, 8)  # one is left to finish
        processes[victim].kill()
        processes[victim].join()
        processes[victim] = start(path, 0.004)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    check(path)


def test_a_slow_process_holds_one_range_at_the_end(tmp_path: Path) -> None:
    """Uneven runners: when the fast one runs out of work, the slow one has no more than the range in its hands."""
    path = tmp_path / "out"
    with Output.open(path, spec(num_rows=40)) as slow:
        slow.take_range()
        fast = start(path, 0.0, num_rows=40)
        surveyor = Surveyor(path)
        deadline = time.monotonic() + 30
        while surveyor.look().rows < 40 - SHARD and time.monotonic() < deadline:
            time.sleep(0.05)
        assert slow.take_range() is None  # its range is open, and nothing else is left to take
        for row in range(SHARD):
            slow.write(RowResult(row, records=[record(row)]))
        slow.finish()
    fast.join(30)
    assert fast.exitcode == 0
    check(path, 40)


def stay(path: Path, num_rows: int, is_open, may_end, num_ranges: int = 0) -> None:
    with Output.open(path, spec(num_rows=num_rows)) as output:
        for _ in range(num_ranges):
            output.take_range(is_hungry=True)
        is_open.set()
        may_end.wait(30)
    os._exit(0)


@pytest.fixture
def begun_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "_LOOK_SECONDS", 0.0)


def test_in_its_first_second_a_process_opens_one_range_unless_it_is_hungry(tmp_path: Path) -> None:
    """Others that begin with it are not seen yet."""
    with Output.open(tmp_path / "out", spec()) as output:
        assert [output.take_range() is None for _ in range(2)] == [False, True]
        assert output.take_range(is_hungry=True) is not None


@pytest.mark.usefixtures("begun_long_ago")
def test_with_few_ranges_left_a_process_opens_one_at_a_time(tmp_path: Path) -> None:
    """Of three ranges and two processes; alone it would open them all."""
    is_open, may_end = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=stay, args=(tmp_path / "out", 15, is_open, may_end))
    other.start()
    assert is_open.wait(30)
    with Output.open(tmp_path / "out", spec(num_rows=15)) as output:
        assert output.take_range() is not None
        assert output.take_range() is None
    may_end.set()
    other.join(30)
    with Output.open(tmp_path / "out", spec(num_rows=15)) as output:
        assert output.take_range() is not None
        assert output.take_range() is not None


@pytest.mark.usefixtures("begun_long_ago")
def test_a_hungry_process_may_hold_its_part_of_what_is_left(tmp_path: Path) -> None:
    """Of four ranges and two processes two, by the rows that they lack; alone all of them."""
    is_open, may_end = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=stay, args=(tmp_path / "out", 20, is_open, may_end))
    other.start()
    assert is_open.wait(30)
    with Output.open(tmp_path / "out", spec(num_rows=20)) as output:
        first = output.take_range()
        assert first is not None and output.take_range() is None
        assert output.take_range(is_hungry=True) is not None
        assert output.take_range(is_hungry=True) is None
        for row in range(first.start, first.stop - 1):  # hardly anything of it is left
            output.write(RowResult(row, records=[record(row)]))
        assert output.take_range() is None
        assert output.take_range(is_hungry=True) is not None
    may_end.set()
    other.join(30)
    with Output.open(tmp_path / "out", spec(num_rows=20)) as output:
        assert [output.take_range(is_hungry=True) is None for _ in range(5)] == [False] * 4 + [True]


def test_who_has_nothing_to_do_commits_at_once_what_others_wait_for(tmp_path: Path) -> None:
    is_open, may_end = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=stay, args=(tmp_path / "out", 15, is_open, may_end, 2))
    other.start()
    assert is_open.wait(30)
    with Output.open(tmp_path / "out", spec(num_rows=15, sync_seconds=10.0)) as output:
        item = output.take_range()
        assert item is not None
        time.sleep(0.2)  # the writer has taken the range up, and would now let rows gather for a second
        for row in range(item.start, item.stop):
            output.write(RowResult(row, records=[record(row)]))
        assert output.take_range() is None
        assert len(list((tmp_path / "out" / "data").iterdir())) == 1
    may_end.set()
    other.join(30)


def test_a_stopped_holder_expires_and_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sleeper = start(path, 0.02, num_rows=40, lease_seconds=1.0)
    while not list(path.glob(".runner/leases/part-*")):
        time.sleep(0.01)
    os.kill(sleeper.pid, signal.SIGSTOP)
    other = start(path, 0.0, num_rows=40, lease_seconds=1.0)
    other.join(60)
    assert other.exitcode == 0
    check_parts = {part.name: part.read_bytes() for part in (path / "data").iterdir()}
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(60)
    assert {part.name: part.read_bytes() for part in (path / "data").iterdir()} == check_parts
    check(path, 40)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    with Output.open(tmp_path / "out", spec()):
        pass
    disk, layout = Disk(), Layout(tmp_path / "out")
    job = read_job(disk, layout)
    assert job is not None
    return Folder(disk, layout, job, COLUMNS)


def claim_all(layout_root: Path, attempt: int, queue, all_looked) -> None:
    disk, layout = Disk(), Layout(layout_root)
    job = read_job(disk, layout)
    leases = Leases(Folder(disk, layout, job, COLUMNS), attempt, 60.0)
    leases.look()
    all_looked.wait(30)
    won = [index for index in range(200) if leases.claim(index)]
    queue.put(won)
    time.sleep(1.0)  # alive while the others claim


def test_of_many_that_claim_a_range_one_has_it(folder: Folder) -> None:
    queue, all_looked, root = CONTEXT.Queue(), CONTEXT.Barrier(4), folder.layout.root
    processes = [
        CONTEXT.Process(target=claim_all, args=(root, number, queue, all_looked)) for number in (101, 102, 103, 104)
    ]
    for process in processes:
        process.start()
    won = Counter(itertools.chain.from_iterable(queue.get(timeout=30) for _ in processes))
    for process in processes:
        process.join()
    assert won == Counter(range(200))


def hold(layout_root: Path, has_claimed, may_end) -> None:
    disk, layout = Disk(), Layout(layout_root)
    leases = Leases(Folder(disk, layout, read_job(disk, layout), COLUMNS), 7, 60.0)
    leases.look()
    assert leases.claim(3)
    has_claimed.set()
    may_end.wait(30)
    os._exit(0)  # as a kill ends it: nothing is given back


def test_a_lease_of_a_dead_attempt_is_free_at_once(folder: Folder) -> None:
    has_claimed, may_end = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(folder.layout.root, has_claimed, may_end))
    process.start()
    leases = Leases(folder, 8, 60.0)
    try:
        assert has_claimed.wait(30)
        assert leases.look() == {3}
        assert leases.num_live() == 2
        may_end.set()
        process.join()
        assert leases.look() == set()
        assert leases.claim(3)
        assert leases.history(3) == {7}
    finally:
        leases.close()
