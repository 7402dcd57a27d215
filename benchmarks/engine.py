# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""The bare engine on one workload after another, in this process: one JSON line each.

    python benchmarks/engine.py 8b seed32 mixed512 [hidden:mixed512] [engine.key=value ...]

Random weights of the given shape, bf16, end-of-sequence ignored. ``seconds`` is from the first step to the last
result. ``hidden:`` asks for the workload's longest answer in every row, and ends each row where the workload says, as
an end-of-sequence would: learned with the step's results. Needs a GPU for the large shapes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

from runner.engine.process import cuda_defaults

os.environ |= cuda_defaults() | os.environ

import json
import tempfile
import time
from dataclasses import fields, replace

import numpy as np
import torch
import yaml
from workloads import SHAPES, WORKLOADS, Item

from runner.config import Device, EngineConfig, LoadFormat, ModelSettings
from runner.engine.build import build_core
from runner.engine.core import EngineCore, Runner
from runner.engine.lane import Launched
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.sampler.base import Status
from runner.engine.settings import EngineSettings
from runner.engine.slots import SlotTable
from runner.models import resolve_model
from runner.types import EngineRequest, SamplingParams


def main(shape: str, *words: str) -> None:
    options = dict(word.removeprefix("engine.").split("=") for word in words if "=" in word)
    config = EngineConfig(**{key: yaml.safe_load(value) for key, value in options.items()})
    started = time.perf_counter()
    core = build(shape, config)
    run(core, WORKLOADS["warm"]())
    say(event="ready", seconds=round(time.perf_counter() - started, 1), kv_blocks=core.scheduler.config.num_blocks)
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name in options}
    for name in (word for word in words if "=" not in word):
        items = WORKLOADS[name.removeprefix("hidden:")]()
        before = replace(core.stats())
        seconds = run(core, items, hidden=name.startswith("hidden:"))
        after = core.stats()
        busy = after.prefill_seconds + after.decode_seconds - before.prefill_seconds - before.decode_seconds
        idle = after.idle_seconds - before.idle_seconds
        tokens = sum(item.num_outputs for item in items)
        say(
            engine="ours",
            shape=shape,
            workload=name,
            seconds=round(seconds, 2),
            tokens=tokens,
            tokens_per_second=round(tokens / seconds, 1),
            steps=after.steps - before.steps,
            preemptions=after.preemptions - before.preemptions,
            prefill_seconds=round(after.prefill_seconds - before.prefill_seconds, 2),
            decode_seconds=round(after.decode_seconds - before.decode_seconds, 2),
            idle_share=round(idle / (busy + idle), 4),
            cached_tokens=after.cached_tokens - before.cached_tokens,
            settings=settings,
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        )


def build(shape: str, config: EngineConfig) -> EngineCore:
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))
    settings = ModelSettings(path=str(folder), device=Device.auto, load_format=LoadFormat.dummy)
    return build_core(EngineSettings(resolve_model(settings), settings, config))


def run(core: EngineCore, items: list[Item], hidden: bool = False) -> float:
    """Seconds for all items; checks that each got its tokens."""
    longest = max(item.num_outputs for item in items)
    limits = [longest if hidden else item.num_outputs for item in items]
    requests = [EngineRequest(i, item.prompt, exactly(limits[i]), (i,)) for i, item in enumerate(items)]
    runner = core.runner
    if hidden:
        core.runner = HiddenEnds(runner, core.scheduler.slots, [item.num_outputs for item in items])
    started = time.perf_counter()
    core.add(requests)
    core.close_input()  # as a run does once it has read all rows
    lengths = {}
    while core.has_work:
        lengths |= {sample.request_id: len(sample.token_ids) for sample in core.step()}
    seconds = time.perf_counter() - started
    core.runner = runner
    core.check_drained()
    assert lengths == {i: item.num_outputs for i, item in enumerate(items)}, "a row did not get its tokens"
    return seconds


class HiddenEnds:
    """A runner that reports the end of a sequence at a length that the scheduler does not know."""

    def __init__(self, runner: Runner, table: SlotTable, lengths: list[int]) -> None:
        self._runner = runner
        self._table = table
        self._lengths = lengths
        self._end = np.zeros(table.num_slots, np.int32)
        self.times = runner.times
        self.prepare = runner.prepare
        self.recover = runner.recover

    def launch(self, plan: StepPlan, table: SlotTable) -> Launched:
        for sequence in plan.admitted:
            self._end[sequence.slot] = self._lengths[sequence.request_id]
        return self._runner.launch(plan, table)

    def results(self, launched: Launched) -> StepResults:
        results = self._runner.results(launched)
        slots = launched.plan.sampled
        results.status[self._table.num_outputs[slots] + 1 >= self._end[slots]] = Status.STOP
        return results


def exactly(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
