"""What the measured lines tell about all runs of a job together: time, cost, quality, curves, the tail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from runner.report.runs import SECONDS, Run, runs_of
from runner.report.throughput import duration
from runner.report.timeline import Axis, Curve, Timeline
from runner.report.view import PHASE_NAMES

_SHOWN_MEAN = 0.005
_DEVICE: Mapping[str, Sequence[str]] = MappingProxyType(
    {"prefill": ("prefill",), "decode": ("decode",), "idle": ("host", "io")}
)
_CARD: Mapping[str, str] = MappingProxyType({"arithmetic (MFU)": "flops", "memory bandwidth": "bandwidth"})


@dataclass(frozen=True)
class History:
    """The runs of a job in the order of their beginnings, side by side or one after another."""

    runs: Sequence[Run] = ()

    @property
    def model(self) -> str:
        return str(self._last_said("model") or "")

    @property
    def dollars_per_gpu_hour(self) -> float | None:
        """As the last run was told."""
        return self._last_said("dollars_per_gpu_hour")

    @property
    def seconds(self) -> float:
        """Of generating, all runs added up."""
        return sum(run.seconds for run in self.runs)

    @property
    def gpu_seconds(self) -> float:
        """The same of the runs that had a GPU: one each."""
        return sum(run.seconds for run in self._on_gpus)

    @property
    def gpu_token_share(self) -> float:
        """Of the tokens of all finished answers, those that a GPU made."""
        tokens = sum(_tokens(run) for run in self.runs)
        return sum(_tokens(run) for run in self._on_gpus) / tokens if tokens else 0.0

    @property
    def idle_gpu_seconds(self) -> float:
        """In which a GPU that had a run computed nothing."""
        return sum(float(run.sums[name][-1]) for run in self._on_gpus for name in ("host", "io") if name in run.sums)

    @property
    def tail_gpu_seconds(self) -> float:
        """Of the GPUs that still had a run in the tail."""
        tail = np.array([self._timeline.tail_began(), self._timeline.ended])
        return sum(float(run.amounts(SECONDS, tail)[0]) for run in self._on_gpus)

    @property
    def tail_seconds(self) -> float:
        """How long at the end fewer than half of the most sequences ran, of all runs since the last stop."""
        return self._timeline.ended - self._timeline.tail_began()

    @property
    def tokens_per_second(self) -> float:
        """Of all runs together, over the time in which at least one ran."""
        watched = self.axis.seconds - sum(stop.seconds for stop in self.axis.stops)
        return sum(_tokens(run) for run in self.runs) / watched if watched else 0.0

    @property
    def answers(self) -> int:
        return sum(run.last.get("samples", 0) for run in self.runs)

    @property
    def quality(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for run in self.runs:
            found.update(run.last.get("quality_totals", {}))
        return found

    @property
    def device(self) -> str:
        """The GPUs that ran, without twins; empty where none did."""
        return ", ".join(dict.fromkeys(run.device for run in self._on_gpus))

    @property
    def axis(self) -> Axis:
        return self._timeline.axis

    def curves(self) -> dict[str, dict[str, Curve]]:
        """By title, then by name; of all runs together."""
        line = self._timeline
        at_once = line.total(SECONDS)
        titles = {
            "made": {"answer tokens": line.total("answer tokens")},
            "read": {"prompt tokens": line.total("prompt tokens")},
            "queue": {name: line.total(name) for name in ("running", "waiting")},
            "device": {shown: line.mean("usage", *names) for shown, names in _DEVICE.items()},
            "card": {shown: line.mean("usage", name) for shown, name in _CARD.items()},
            "process": {shown: line.mean("phases", name) for name, shown in PHASE_NAMES.items()},
            "quality": {name: line.mean("quality", name) for name in self.quality},
            "runs": {"processes": at_once} if max(filter(None, at_once), default=0.0) > 1.5 else {},
        }
        always = ("made", "queue", "device", "process")
        return {
            title: {name: curve for name, curve in curves.items() if title in always or any(curve)}
            for title, curves in titles.items()
        }

    def notes(self) -> list[str]:
        """The bottleneck, the time of the engine, the tail and the cache in words."""
        usual = _usual([text for run in self.runs for text in run.bottlenecks])
        found = [f"Bottleneck most of the time: {usual}."] if usual else []
        found += self._means("Time of the engine", _DEVICE)
        found += self._means("Use of the card", {shown: (name,) for shown, name in _CARD.items()})
        if self.tail_seconds > 0:
            tail = f"the last {duration(self.tail_seconds)} ({self.tail_seconds / self.axis.seconds:.0%})"
            found.append(f"Tail: {tail} had less than half of the sequences running.")
        cached, computed, preemptions = (
            sum(run.last.get("engine", {}).get(name, 0) for run in self.runs)
            for name in ("cached_tokens", "prompt_tokens", "preemptions")
        )
        if cached:
            hits = cached / (cached + computed)
            found.append(f"Prefix cache: {hits:.0%} of the prompt tokens; {preemptions:,} preemptions.")
        return found

    def _means(self, title: str, names: Mapping[str, Sequence[str]]) -> list[str]:
        """The mean of each share over the time of all runs; nothing where there was nothing to measure."""
        known = self._sum("usage")
        sums = {shown: sum(map(self._sum, parts)) for shown, parts in names.items()}
        parts = [f"{shown} {total / known:.0%}" for shown, total in sums.items() if total >= _SHOWN_MEAN * known > 0]
        return [f"{title}, on average: {', '.join(parts)}."] if parts else []

    def _sum(self, name: str) -> float:
        return sum(float(run.sums[name][-1]) for run in self.runs if name in run.sums)

    def _last_said(self, name: str) -> Any:
        return next((run.start[name] for run in reversed(self.runs) if run.start.get(name) is not None), None)

    @property
    def _on_gpus(self) -> list[Run]:
        return [run for run in self.runs if run.device]

    @cached_property
    def _timeline(self) -> Timeline:
        return Timeline(self.runs)


def history_of(lines: Iterable[Mapping[str, Any]]) -> History:
    """From the lines of metrics, those of each run in order; runs are told apart by their ``run``."""
    return History(runs_of(lines))


def _tokens(run: Run) -> int:
    return int(run.last.get("finished_tokens", 0))


def _usual(texts: Sequence[str]) -> str:
    """The most frequent text, whatever its numbers, as it was last said."""
    if not texts:
        return ""
    kinds = Counter(re.sub(r"[0-9]+", "0", text) for text in texts)
    usual = kinds.most_common(1)[0][0]
    return next(text for text in reversed(texts) if re.sub(r"[0-9]+", "0", text) == usual)
