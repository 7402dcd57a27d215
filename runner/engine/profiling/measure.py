"""Runs a slice of work in one mode and keeps what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from runner.engine.core import EngineCore
from runner.engine.profiling.recorder import Recorder, Span, Step, StepSpan
from runner.types import EngineRequest

_COPY_BYTES = 256 * 2**20  # well over the caches of cards and of most processors


@dataclass(frozen=True)
class Recording:
    """One slice in one mode."""

    async_batching: bool
    spans: list[Span]  # in the order of their start

    @property
    def seconds(self) -> float:
        """From the first step's planning to the end of the last one's work."""
        return max(span.end for span in self.spans) - self.spans[0].start if self.spans else 0.0

    @property
    def compute(self) -> list[StepSpan]:
        """Of every step one. Prompts may be computed beside rows: these spans may lie over one another."""
        return [span for span in self.spans if isinstance(span, StepSpan)]

    @property
    def steps(self) -> list[Step]:
        return [span.step for span in self.compute]


def record(
    core: EngineCore, recorder: Recorder, requests: Sequence[EngineRequest], async_batching: bool, max_steps: int
) -> Recording:
    """Runs ``max_steps`` steps over ``requests``, then drops the rest; the engine is idle before and after.

    One step more where the last has prompts beside it, and fewer where there is no more to do.
    """
    core.check_drained()
    core.async_batching = async_batching
    recorder.start()
    refused = {sample.request_id for sample in core.add(requests)}
    while core.has_work and recorder.num_steps < max_steps:
        with recorder.host("step"):
            core.step()
    spans = recorder.stop()
    core.abort({(r.request_id, i) for r in requests if r.request_id not in refused for i in r.sample_indices})
    while core.has_work:
        core.step()
    core.check_drained()
    return Recording(async_batching, spans)


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy moves, reads and writes together: the card's practical limit."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    names = {"target": target, "source": source}
    timer = Timer("target.copy_(source)", globals=names, num_threads=torch.get_num_threads())
    return 2 * _COPY_BYTES / float(timer.blocked_autorange(min_run_time=0.3).median)
