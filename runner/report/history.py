"""What the measured lines tell about a job's runs: time and quality over all of them, curves and tail of the last."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from runner.report.throughput import duration
from runner.report.view import PHASE_NAMES

_TAIL_SHARE = 0.5


@dataclass
class History:
    """``seconds`` and ``tokens`` add up all runs; ``times`` are seconds since the last run began to generate."""

    model: str = ""
    dollars_per_gpu_hour: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    answers: int = 0
    quality: Counter[str] = field(default_factory=Counter)
    quality_rates: dict[str, list[float]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    speed: dict[str, list[float]] = field(default_factory=dict)
    queue: dict[str, list[float]] = field(default_factory=dict)
    device: dict[str, list[float]] = field(default_factory=dict)
    card: dict[str, list[float]] = field(default_factory=dict)
    process: dict[str, list[float]] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    bottleneck: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def idle_share(self) -> float:
        """Of the last run's time, in which its card computed nothing; 0 where there was no card."""
        idle = self.device.get("idle", [])
        return sum(idle) / len(idle) if idle and self.last.get("engine", {}).get("device") else 0.0

    @property
    def tail_seconds(self) -> float:
        """How long at its end fewer than half of the most sequences ran."""
        running = self.queue.get("running", [])
        most = max(running, default=0.0)
        full = [t for t, number in zip(self.times, running, strict=True) if number >= _TAIL_SHARE * most]
        return self.times[-1] - full[-1] if full and most else 0.0

    def notes(self) -> list[str]:
        """The bottleneck, the time of the card, the tail and the cache in words."""
        found = [f"Bottleneck most of the time: {self.bottleneck}."] if self.bottleneck else []
        found += _means("Time of the engine", self.device) + _means("Use of the card", self.card)
        if self.tail_seconds > 0:
            tail = f"the last {duration(self.tail_seconds)} ({self.tail_seconds / max(self.times[-1], 1e-9):.0%})"
            found.append(f"Tail: {tail} had less than half of the sequences running.")
        engine = self.last.get("engine", {})
        cached = engine.get("cached_tokens", 0)
        if cached:
            hits = cached / (cached + engine.get("prompt_tokens", 0))
            found.append(
                f"Prefix cache: {hits:.0%} of the prompt tokens; {engine.get('preemptions', 0):,} preemptions."
            )
        return found


def history_of(lines: Sequence[Mapping[str, Any]]) -> History:
    """From the lines of `read_metrics`; runs that share the folder are told apart by their ``run``."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    found = History()
    for line in lines:
        if line["kind"] == "start":
            found.model = str(line.get("model", ""))
            found.dollars_per_gpu_hour = line.get("dollars_per_gpu_hour")
        elif "samples" in line:
            runs.setdefault(str(line.get("run")), []).append(line)
    for points in runs.values():
        last = points[-1]
        found.seconds += last.get("generating_seconds", 0.0)
        found.tokens += last.get("finished_tokens", 0)
        found.answers += last.get("samples", 0)
        found.quality.update(last.get("quality_totals", {}))
    if runs:
        _fill_curves(found, list(runs.values())[-1])
    return found


def _fill_curves(found: History, points: Sequence[Mapping[str, Any]]) -> None:
    points = [point for point in points if point.get("engine", {}).get("steps", 1)] or points  # it had loaded
    began = points[0]["time"] - points[0].get("generating_seconds", 0.0)
    found.last = points[-1]
    found.times = [point["time"] - began for point in points]
    found.bottleneck = _usual([str(point["bottleneck"]) for point in points if point.get("bottleneck")])
    engine = [point.get("engine", {}) for point in points]
    found.speed = {
        "answer tokens": _rates(found.times, [state.get("completion_tokens", 0) for state in engine]),
        "prompt tokens": _rates(found.times, [state.get("prompt_tokens", 0) for state in engine]),
    }
    found.queue = {
        "running": [float(state.get("num_running", 0)) for state in engine],
        "waiting": [float(state.get("num_waiting", 0)) for state in engine],
    }
    used = [point.get("usage", {}) for point in points]
    found.device = {
        "prefill": _curve(used, "prefill"),
        "decode": _curve(used, "decode"),
        "idle": [usage.get("host", 0.0) + usage.get("io", 0.0) for usage in used],
    }
    if engine[-1].get("device"):
        found.card = {
            name: _curve(used, key)
            for key, name in (("flops", "arithmetic (MFU)"), ("bandwidth", "memory bandwidth"))
            if any(usage.get(key) for usage in used)
        }
    rates = [point.get("quality", {}) for point in points]
    curves = {name: _curve(rates, name) for name in points[-1].get("quality", {})}
    found.quality_rates = {name: values for name, values in curves.items() if any(values)}
    phases = [point.get("phases", {}) for point in points]
    found.process = {shown: _curve(phases, name) for name, shown in PHASE_NAMES.items()}


def _curve(points: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(point.get(name) or 0.0) for point in points]


def _means(title: str, curves: Mapping[str, Sequence[float]]) -> list[str]:
    """The mean of each curve; nothing where there was nothing to measure."""
    measured = sum(any(values) for values in zip(*curves.values(), strict=True))  # not while the model loads
    parts = [f"{name} {sum(values) / measured:.0%}" for name, values in curves.items() if any(values)]
    return [f"{title}, on average: {', '.join(parts)}."] if parts else []


def _rates(times: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Between each moment and the one before; 0 where a new engine began to count anew. The first is as the second."""
    steps = list(pairwise(zip(times, counts, strict=True)))
    rates = [max(b - a, 0) / (later - earlier) if later > earlier else 0.0 for (earlier, a), (later, b) in steps]
    return [*rates[:1], *rates] if rates else [0.0] * len(times)


def _usual(texts: Sequence[str]) -> str:
    """The most frequent text, whatever its numbers, as it was last said."""
    if not texts:
        return ""
    kinds = Counter(re.sub(r"[0-9]+", "0", text) for text in texts)
    usual = kinds.most_common(1)[0][0]
    return next(text for text in reversed(texts) if re.sub(r"[0-9]+", "0", text) == usual)
