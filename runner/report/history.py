"""What the measured lines tell about a job's runs: time and quality over all of them, curves and tail of the last."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

from runner.report.throughput import duration

_TAIL_SHARE = 0.5


@dataclass
class History:
    """``seconds`` and ``tokens`` add up all runs; ``times`` are seconds since the last run began to generate."""

    model: str = ""
    seconds: float = 0.0
    tokens: int = 0
    answers: int = 0
    quality: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    speed: dict[str, list[float]] = field(default_factory=dict)
    queue: dict[str, list[float]] = field(default_factory=dict)
    host: dict[str, list[float]] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    bottleneck: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def notes(self) -> list[str]:
        """The tail and the bottleneck in words."""
        found = [f"Bottleneck most of the time: {self.bottleneck}."] if self.bottleneck else []
        running = self.queue.get("running", [])
        most = max(running, default=0.0)
        full = [t for t, number in zip(self.times, running, strict=True) if number >= _TAIL_SHARE * most]
        tail = self.times[-1] - full[-1] if full and most else 0.0
        if tail > 0:
            share = tail / max(self.times[-1], 1e-9)
            found.append(f"Tail: the last {duration(tail)} ({share:.0%}) had less than half of the sequences running.")
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
    began = points[0]["time"] - points[0].get("generating_seconds", 0.0)
    found.last = points[-1]
    found.times = [point["time"] - began for point in points]
    found.bottleneck = _usual([str(point.get("bottleneck", "")) for point in points])
    engine = [point.get("engine", {}) for point in points]
    found.speed = {
        "answer tokens": _rates(found.times, [state.get("completion_tokens", 0) for state in engine]),
        "prompt tokens": _rates(found.times, [state.get("prompt_tokens", 0) for state in engine]),
    }
    found.queue = {
        "running": [float(state.get("num_running", 0)) for state in engine],
        "waiting": [float(state.get("num_waiting", 0)) for state in engine],
    }
    names = {"prepare": "rendering", "finish": "reading and writing answers", "wait": "waiting for the engine"}
    shares = [point.get("shares", {}) for point in points]
    found.host = {shown: [share.get(name, 0.0) for share in shares] for name, shown in names.items()}


def _rates(times: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Between each moment and the one before; 0 where a new engine began to count anew."""
    pairs = zip(times, counts, strict=True)
    steps = pairwise(chain([(0.0, 0)], pairs))
    return [max(b - a, 0) / (later - earlier) if later > earlier else 0.0 for (earlier, a), (later, b) in steps]


def _usual(texts: Sequence[str]) -> str:
    """The most frequent text, whatever its numbers, as it was last said."""
    if not texts:
        return ""
    kinds = Counter(re.sub(r"[0-9]+", "0", text) for text in texts)
    usual = kinds.most_common(1)[0][0]
    return next(text for text in reversed(texts) if re.sub(r"[0-9]+", "0", text) == usual)
