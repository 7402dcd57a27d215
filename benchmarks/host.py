# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""What a step costs the host, with the device's work stubbed: microseconds a step, by stage and by running rows.

    python benchmarks/host.py [rows ...]

Means over 400 steps. *Steady*: all rows decode, and each needs a block every sixteenth step. *Busy*: rows end after 20
to 219 tokens and others take their place, prefill steps included. ``words`` is the size of the packet, in int32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from runner.engine.batch import BatchBuilder, packet_capacity
from runner.engine.core import EngineCore
from runner.engine.device_times import DeviceTimes
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable
from runner.types import EngineRequest, SamplingParams

STEPS = 400


@dataclass
class Launched:
    plan: StepPlan
    tokens: np.ndarray


class NoDevice:
    """Builds the packet of each step, as the real runner does, and answers with any token."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._builder = BatchBuilder(config, ())
        self._packet = np.empty(packet_capacity(config), np.int32)
        self.times = DeviceTimes()
        self.seconds = 0.0
        self.words = 0

    def launch(self, plan: StepPlan, table: SlotTable) -> Launched:
        started = time.perf_counter()
        self.words += self._builder.build(plan, table.block_table, table.length, self._packet).size
        self.seconds += time.perf_counter() - started
        return Launched(plan, np.full(len(plan.sampled), 7, np.int32))

    def prepare(self, launched: Launched, num_rows: int) -> None:
        pass

    def results(self, launched: Launched) -> StepResults:
        return StepResults(launched.tokens, np.zeros_like(launched.tokens))

    def recover(self) -> None:
        raise AssertionError("nothing can fail here")


def engine(rows: int) -> tuple[EngineCore, NoDevice]:
    config = SchedulerConfig(
        max_num_seqs=rows, max_num_batched_tokens=8192, max_model_len=4096, block_size=16, num_blocks=rows * 256
    )
    device = NoDevice(config)
    return EngineCore(Scheduler(config), device, prefix_caching=False), device


def requests(count: int, num_outputs: Callable[[int], int]) -> list[EngineRequest]:
    """Prompts of 20 to 35 tokens, so that the rows' blocks fill up at different steps."""
    return [
        EngineRequest(i, [5] * (20 + i % 16), SamplingParams(max_tokens=num_outputs(i), temperature=0.0), (0,))
        for i in range(count)
    ]


def measure(rows: int, work: list[EngineRequest]) -> tuple[float, float, float]:
    """Microseconds of a step and of building its packet, and the packet's size in int32: means once all rows run."""
    core, device = engine(rows)
    core.add(work)
    while core.stats().num_running < rows:
        core.step()
    for _ in range(20):
        core.step()
    device.seconds, device.words = 0.0, 0
    started = time.perf_counter()
    for _ in range(STEPS):
        core.step()
    return (time.perf_counter() - started) / STEPS * 1e6, device.seconds / STEPS * 1e6, device.words / STEPS


def main(*counts: str) -> None:
    print(
        f"{'rows':>6} {'steady us':>10} {'packet us':>10} {'words':>6} {'busy us':>10} {'packet us':>10} {'words':>6}"
    )
    for rows in [int(count) for count in counts] or [32, 512, 2048]:
        steady = measure(rows, requests(rows, lambda _: 4000))
        busy = measure(rows, requests(12 * rows, lambda i: 20 + 37 * i % 200))
        print(
            f"{rows:>6} "
            + " ".join(f"{us:>10.1f} {packet:>10.1f} {words:>6.0f}" for us, packet, words in (steady, busy))
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
