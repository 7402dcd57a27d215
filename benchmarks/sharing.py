"""What leases cost engines that run many rows at once: one process, then several on one folder, by rows a range.

    python -m benchmarks.sharing --folder /tmp/sharing [--processes 2 4] [--uneven] [--ranges 64 128 256 512]

The rows have the lengths of mixed512 twice. The engine is a clock: ``places`` sequences at once, a step that takes a
fixed time and more for each of them, prompts that take theirs, as in benchmarks/eta.py; it does the longest first once
no more rows are to be had, unless --unordered. With --uneven every second one takes twice as long. Everything else is
the run's own; the one process has no leases. The time begins when all processes have their engines and ends with the
last commit. Prints seconds, how many times as fast as the one process, and the seconds between the last commits of the
first and the last to end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet

from benchmarks.eta import PREFILL_SECONDS, ROW_SECONDS, STEP_SECONDS
from benchmarks.scaling import last_commits
from benchmarks.workloads import WORKLOADS
from runner.cli.compose import compose
from runner.config import RunnerConfig
from runner.run.backends import Backend, choose_backend
from runner.signals import StopFlag
from runner.types import EngineRequest, EngineStats, FinishReason, Sample, SampleKey

PROMPTS_A_STEP = 14  # of 585 tokens, in a step of 8,192
SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Running:
    request: EngineRequest
    num_tokens: int = 0

    @property
    def is_done(self) -> bool:
        return self.num_tokens >= self.request.sampling.max_tokens


class ClockedEngine:
    """An EngineClient whose every answer has its max_tokens; waits for the others before its first request."""

    def __init__(self, places: int, pace: float, barrier: Barrier, *, is_ordered: bool) -> None:
        self._places = places
        self._pace = pace
        self._is_ordered = is_ordered
        self._barrier = barrier
        self._waiting: deque[EngineRequest] = deque()
        self._running: list[Running] = []
        self._now = 0.0  # when the steps so far have ended, on the monotonic clock
        self._stats = EngineStats()

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if not requests:  # asked whether it is ready
            self._barrier.wait()
            self._now = time.monotonic()
        self._waiting.extend(requests)

    def poll(self, timeout: float) -> list[Sample]:
        until = time.monotonic() + timeout
        while not (done := self._catch_up()) and time.monotonic() < until:
            time.sleep(max(0.0, min(self._now, until) - time.monotonic()))
        return done

    def _catch_up(self) -> list[Sample]:
        """Does the steps that are due; late ones run with what was there, as a card would have."""
        done: list[Sample] = []
        while (now := time.monotonic()) >= self._now:
            if not self._waiting and not self._running:
                self._now = now + STEP_SECONDS
                break
            self._step()
            done += [_answer(item.request) for item in self._running if item.is_done]
            self._running = [item for item in self._running if not item.is_done]
        return done

    def _step(self) -> None:
        """One of prompts while places are free, else one in which every sequence gets a token."""
        admitted = min(self._places - len(self._running), len(self._waiting), PROMPTS_A_STEP)
        stepping = [Running(self._waiting.popleft()) for _ in range(admitted)] or self._running
        seconds = admitted * PREFILL_SECONDS or STEP_SECONDS + ROW_SECONDS * len(self._running)
        self._now += self._pace * seconds
        self._running += stepping if admitted else []
        for item in stepping:
            item.num_tokens += 1
        self._stats.steps += 1
        self._stats.completion_tokens += len(stepping)

    def close_input(self) -> None:
        if self._is_ordered:
            self._waiting = deque(sorted(self._waiting, key=lambda request: -request.sampling.max_tokens))

    def stats(self) -> EngineStats:
        self._stats.num_running, self._stats.num_waiting = len(self._running), len(self._waiting)
        return self._stats

    def abort(self, samples: Sequence[SampleKey]) -> None:
        """Nothing here has a stop string."""

    def drop_waiting(self) -> None:
        """Nothing here is stopped."""

    def kill(self) -> None:
        """Nothing runs here."""

    def close(self) -> None:
        self._waiting.clear()


def _answer(request: EngineRequest) -> Sample:
    return Sample(request.request_id, 0, [97] * request.sampling.max_tokens, FinishReason.LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--places", type=int, default=256)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--unordered", action="store_true", help="the engine does not know which answers are long")
    parser.add_argument("--copies", type=int, default=1, help="how often all rows are there")
    parser.add_argument("--ranges", type=int, nargs="+", default=[64, 128, 256, 512], help="rows a range")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    items = WORKLOADS["mixed512x2"]() * arguments.copies
    options = [{"max_tokens": item.num_outputs} for item in items]
    table = pa.table({"prompt": [f"question {i}" for i in range(len(items))], "sampling_params": options})
    pyarrow.parquet.write_table(table, arguments.folder / "rows.parquet")
    cases = Cases(arguments.folder, arguments.places, not arguments.unordered)
    alone, _ = cases.measure([1.0], max(arguments.ranges))
    print(f"one process: {alone:.2f} s\nprocesses  rows a range  seconds  times as fast  spread (s)", flush=True)
    for number, size in product(arguments.processes, arguments.ranges):
        seconds, spread = cases.measure([1.0 + (arguments.uneven and k % 2) for k in range(number)], size)
        print(f"{number:9}  {size:12}  {seconds:7.2f}  {alone / seconds:13.3f}  {spread:10.2f}", flush=True)


@dataclass(frozen=True)
class Cases:
    """What all measurements have in common."""

    folder: Path
    places: int
    is_ordered: bool

    def measure(self, paces: Sequence[float], rows_per_shard: int) -> tuple[float, float]:
        """Seconds, and those between the last commits of the first and the last process to end."""
        out = self.folder / f"{len(paces)}-{rows_per_shard}"
        barrier = SPAWN.Barrier(len(paces) + 1)
        arguments = [
            "job=generate",
            "engine=echo",
            f"input.path={self.folder / 'rows.parquet'}",
            f"output.dir={out}",
            f"output.rows_per_shard={rows_per_shard}",
            f"engine.max_num_seqs={self.places}",
            "partition=auto" if len(paces) > 1 else "partition=0/1",
        ]
        processes = [SPAWN.Process(target=self.work, args=(arguments, pace, barrier)) for pace in paces]
        for process in processes:
            process.start()
        barrier.wait(120)
        began = time.time()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        ends = last_commits(out)
        return max(ends) - began, max(ends) - min(ends)

    def work(self, arguments: list[str], pace: float, barrier: Barrier) -> None:
        """One process: a run with the clock in the place of the stand-in engine."""

        def start() -> ClockedEngine:
            return ClockedEngine(self.places, pace, barrier, is_ordered=self.is_ordered)

        def clocked(config: RunnerConfig) -> Backend:
            return replace(choose_backend(config), start_engine=start)

        module = import_module("runner.run.run")
        with patch.object(module, "choose_backend", clocked):
            module.run(compose(arguments), StopFlag())


if __name__ == "__main__":
    main()
