"""What a recording comes to: busy and idle shares, a step's time, and the host's stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from runner.engine.profiling import HOST, Recording, Span, StepSpan
from runner.report.cards import ModelShape

STAGES = ("schedule", "packet", "launch", "accept", "other")
"""The host's work of a step: plan it, build its packet, queue it on the streams, take in its results; the rest."""


@dataclass(frozen=True)
class Figures:
    """Of one mode. Times in seconds; ``busy`` and ``idle`` are shares of the time from first to last device work.

    ``steady_idle`` and ``decode_step`` look only at a decode step that follows a decode step, without prompts between
    or beside them; None without such. ``host_busy`` is the share of the time that the host works. ``host`` is by stage,
    ``wait`` for the device: medians over turns of the host's loop that launch a step, as launching prompts takes many
    times as long as launching rows. ``limit`` is the time of reading the weights and the cache once, a mean over decode
    steps.
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
    host_busy: float
    host: dict[str, float]
    wait: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def figures(recording: Recording, shape: ModelShape | None, bandwidth: float) -> Figures:
    """``bandwidth`` in bytes a second; a ``shape`` of None leaves the limit out."""
    steps, compute = recording.steps, recording.compute
    idle = _idle(compute)
    whole = max(span.end for span in compute) - compute[0].start
    steady = _steady(compute)
    steady_idle = sum(max(after.start - before.end, 0.0) for before, after in steady)
    steady_busy = sum(after.seconds for _, after in steady)
    decode = [step for step in steps if not step.prompt_tokens]
    turns = _turns(recording)
    launching = [turn for turn in turns if turn["packet"]]
    works = sum(turn["step"] - turn["wait"] for turn in turns)
    limit = None
    if shape is not None and decode:
        context = sum(step.context_tokens for step in decode) / len(decode)
        limit = (shape.step_bytes + context * shape.kv_bytes) / bandwidth
    return Figures(
        async_batching=recording.async_batching,
        steps=len(steps),
        prompt_steps=len(steps) - len(decode),
        tokens_per_second=sum(step.sampled for step in steps) / recording.seconds,
        busy=1 - idle / whole,
        idle=idle / whole,
        steady_idle=steady_idle / (steady_busy + steady_idle) if steady else None,
        decode_step=median(after.start - before.start for before, after in steady) if steady else None,
        limit=limit,
        host_busy=works / recording.seconds,
        host={stage: _median(turn[stage] for turn in launching) for stage in STAGES},
        wait=_median(turn["wait"] for turn in launching),
    )


def _idle(spans: Sequence[Span]) -> float:
    """Seconds between the first span's start and the last one's end that none of them covers."""
    idle, end = 0.0, spans[0].start
    for span in spans:
        idle += max(span.start - end, 0.0)
        end = max(end, span.end)
    return idle


def _steady(compute: Sequence[StepSpan]) -> list[tuple[StepSpan, StepSpan]]:
    """Decode steps that follow one another, without prompts from the start of the first to the end of the second."""
    prompts = [span for span in compute if span.step.prompt_tokens]
    return [
        (before, after)
        for before, after in pairwise(span for span in compute if not span.step.prompt_tokens)
        if not any(span.start < after.end and span.end > before.start for span in prompts)
    ]


def _turns(recording: Recording) -> list[dict[str, float]]:
    """Seconds of each turn of the host's loop, by stage without the stages in it; ``step`` is all of the turn."""
    turns: list[dict[str, float]] = []
    for span in recording.spans:
        if span.lane == HOST:
            if span.name == "step":
                turns.append(dict.fromkeys((*STAGES, "wait", "step"), 0.0))
            turns[-1][span.name] += span.seconds
    for turn in turns:
        turn["other"] = turn["step"] - sum(turn[stage] for stage in ("schedule", "launch", "accept", "wait"))
        turn["launch"] -= turn["packet"]
    return turns


def _median(values: Iterable[float]) -> float:
    return median([*values] or [0.0])
