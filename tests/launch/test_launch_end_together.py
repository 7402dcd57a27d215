"""Processes that share ranges by leases end within one range of one another.

Real processes on one folder, some killed; but the test keeps their clock, so that how busy the machine is says
nothing: a row takes a second of the test's time, with a fast process less and with a slow one more, and the process
whose row ends first has its turn.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
import pytest

from runner.output import Output, OutputSpec, plan_columns, share
from runner.output import output as output_module
from runner.output.verification import verify
from runner.types import RowResult

PACES = (0.7, 0.8, 0.9, 1.0, 1.0, 1.1, 1.2, 1.5)
NUM_KILLS = 8
NUM_ROWS, SHARD = 600, 5
IDLE_SECONDS = 0.2
CONTEXT = multiprocessing.get_context("fork")
SPEC = OutputSpec(
    "together",
    plan_columns(pa.schema([("n", pa.int64())]), parsed={}, keep_prompt="none", prefix=""),
    NUM_ROWS,
    {},
    partition=None,
    rows_per_shard=SHARD,
)


class Clock:
    """Stands where `time` stood."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """The test says how late it is afterwards."""


def result(row: int) -> RowResult:
    own = {"row_id": row, "request_index": 0, "sample_index": 0, "completion": "answer", "finish_reason": "stop"}
    return RowResult(row, [{"n": row, **own, "prompt_tokens": 1, "completion_tokens": 2, "seed": row, "model": "none"}])


def drive(path: Path, pipe: Connection) -> None:
    """At each time that it is told: ends the row in its hands, takes ranges; tells what it holds then."""
    clock = share.time = output_module.time = Clock()  # type: ignore[assignment]
    rows: list[int] = []
    with Output.open(path, SPEC) as output:
        has_more = True
        while has_more:
            clock.now = pipe.recv()
            ends_range = False
            if rows:
                row = rows.pop(0)
                ends_range = row // SHARD not in {other // SHARD for other in rows}
                output.write(result(row))
                output.flush()
            while (item := output.take_range()) is not None:
                rows += [row for row in range(item.start, item.stop) if row not in item.done]
            has_more = bool(rows or output.ranges_left)
            pipe.send((len(rows), ends_range, has_more))
        output.finish()
    os._exit(0)


@dataclass
class Worker:
    """A process, the time of its next turn, its seconds a row, and when it ended ranges."""

    process: BaseProcess
    pipe: Connection
    time: float
    pace: float
    ends: list[float] = field(default_factory=list)

    def turn(self) -> bool:
        """False once all ranges are committed."""
        self.pipe.send(self.time)
        num_rows, ends_range, has_more = self.pipe.recv()
        self.ends += [self.time] * ends_range
        self.time += self.pace if num_rows else IDLE_SECONDS
        return has_more


def start(path: Path, time: float, pace: float) -> Worker:
    pipe, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=drive, args=(path, theirs), daemon=True)
    process.start()
    return Worker(process, pipe, time, pace)


def run_all(path: Path, chance: random.Random) -> list[Worker]:
    """The processes that were not killed, once all is done."""
    work_seconds = NUM_ROWS / len(PACES)
    kills = sorted(chance.uniform(0, 0.7 * work_seconds) for _ in range(NUM_KILLS))
    workers = [start(path, 0.0, pace) for pace in PACES]
    ended = []
    while workers:
        worker = min(workers, key=lambda worker: worker.time)
        assert worker.time < 3 * work_seconds, "ranges are left that nobody takes"
        if kills and worker.time >= kills[0]:
            victim = chance.choice(workers)
            victim.process.kill()
            victim.process.join()
            workers[workers.index(victim)] = start(path, kills.pop(0), victim.pace)
        elif not worker.turn():
            workers.remove(worker)
            ended.append(worker)
    for worker in ended:
        worker.process.join()
        assert worker.process.exitcode == 0
    return ended


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in (1, 2))])
def test_when_the_first_has_no_more_work_nobody_has_more_than_one_range(tmp_path: Path, seed: int) -> None:
    workers = run_all(tmp_path / "out", random.Random(seed))
    first_end = min(worker.ends[-1] for worker in workers if worker.ends)
    assert max(sum(time > first_end for time in worker.ends) for worker in workers) <= 1
    report = verify(tmp_path / "out")
    assert report.damages == [] and report.folder.totals().rows == NUM_ROWS
