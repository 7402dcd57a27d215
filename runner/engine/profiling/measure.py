"""Runs a slice of work in one mode and keeps what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from runner.engine.core import EngineCore
from runner.engine.profiling.recorder import COMPUTE, Recorder, Span, Step
from runner.types import EngineRequest

_COPY_BYTES = 256 * 2**20  # well over the caches of cards and of most processors


@dataclass(frozen=True)
class Recording:
    """One slice in one mode. The compute span of each step is in the order of ``steps``."""

    async_batching: bool
    steps: list[Step]
    spans: list[Span]

    @property
    def seconds(self) -> float:
        """From the first step's planning to the end of the last one's work."""
        return max(span.end for span in self.spans) - self.spans[0].start if self.spans else 0.0

    @property
    def compute(self) -> list[Span]:
        return [span for span in self.spans if span.lane == COMPUTE]


def record(
    core: EngineCore, recorder: Recorder, requests: Sequence[EngineRequest], async_batching: bool, max_steps: int
) -> Recording:
    """Runs at most ``max_steps`` steps over ``requests``, then drops the rest; the engine is idle before and after."""
    core.check_drained()
    core.async_batching = async_batching
    recorder.start()
    refused = {sample.request_id for sample in core.add(requests)}
    while core.has_work and len(recorder.steps) < max_steps:
        with recorder.host("step"):
            core.step()
    steps, spans = recorder.stop()
    core.abort({(r.request_id, i) for r in requests if r.request_id not in refused for i in r.sample_indices})
    while core.has_work:
        core.step()
    core.check_drained()
    return Recording(async_batching, steps, spans)


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy moves, reads and writes together: the card's practical limit."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    names = {"target": target, "source": source}
    timer = Timer("target.copy_(source)", globals=names, num_threads=torch.get_num_threads())
    return 2 * _COPY_BYTES / float(timer.blocked_autorange(min_run_time=0.3).median)
