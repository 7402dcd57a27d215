"""What a recording comes to: busy and idle shares, a step's time, and the host's stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from runner.engine.profiling import HOST, Recording
from runner.report.cards import ModelShape

STAGES = ("schedule", "packet", "launch", "accept", "other")
"""The host's work of a step: plan it, build its packet, queue it on the streams, take in its results; the rest."""


@dataclass(frozen=True)
class Figures:
    """Of one mode. Times in seconds; ``busy`` and ``idle`` are shares of the time from first to last device work.

    ``steady_idle`` looks only at a decode step that follows a decode step; None without such. ``host`` is by stage,
    ``wait`` for the device: means over steps. ``limit`` is the time of reading the weights and the cache once, a mean
    over decode steps.
    """

    async_batching: bool
    steps: int
    prompt_steps: int
    tokens_per_second: float
    busy: float
    idle: float
    steady_idle: float | None
    decode_step: float | None
    limit: float | None
    host: dict[str, float]
    wait: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def figures(recording: Recording, shape: ModelShape | None, bandwidth: float) -> Figures:
    """``bandwidth`` in bytes a second; a ``shape`` of None leaves the limit out."""
    steps, compute = recording.steps, recording.compute
    gaps = [max(after.start - before.end, 0.0) for before, after in pairwise(compute)]
    busy, idle = sum(span.seconds for span in compute), sum(gaps)
    steady = [i for i in range(1, len(steps)) if not steps[i].prompt_tokens and not steps[i - 1].prompt_tokens]
    steady_idle = sum(gaps[i - 1] for i in steady)
    steady_busy = sum(compute[i].seconds for i in steady)
    decode = [step for step in steps if not step.prompt_tokens]
    host = _host(recording)
    limit = None
    if shape is not None and decode:
        context = sum(step.context_tokens for step in decode) / len(decode)
        limit = (shape.step_bytes + context * shape.kv_bytes) / bandwidth
    return Figures(
        async_batching=recording.async_batching,
        steps=len(steps),
        prompt_steps=len(steps) - len(decode),
        tokens_per_second=sum(step.sampled for step in steps) / recording.seconds,
        busy=busy / (busy + idle),
        idle=idle / (busy + idle),
        steady_idle=steady_idle / (steady_busy + steady_idle) if steady else None,
        decode_step=median(compute[i].start - compute[i - 1].start for i in steady) if steady else None,
        limit=limit,
        host={stage: host[stage] for stage in STAGES},
        wait=host["wait"],
    )


def _host(recording: Recording) -> dict[str, float]:
    """Seconds a step by stage, each without the stages in it."""
    total: dict[str, float] = dict.fromkeys((*STAGES, "wait", "step"), 0.0)
    for span in recording.spans:
        if span.lane == HOST:
            total[span.name] += span.seconds
    total["other"] = total["step"] - sum(total[stage] for stage in ("schedule", "launch", "accept", "wait"))
    total["launch"] -= total["packet"]
    return {stage: seconds / len(recording.steps) for stage, seconds in total.items()}
