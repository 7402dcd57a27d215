"""What each run of a job measured, as columns that can be added up over all runs by the clock.

A run is one process over one partition with one file of metrics; a restart is another run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_COUNTERS: Mapping[str, str] = {"answer tokens": "completion_tokens", "prompt tokens": "prompt_tokens"}
_MOMENTS: Mapping[str, str] = {"running": "num_running", "waiting": "num_waiting"}
_SHARES = ("usage", "phases", "quality")  # groups of a line; their own names are those of the time they are known for
SECONDS = "seconds"


@dataclass(frozen=True)
class Run:
    """``edges`` [T + 1] are the moments of its lines in seconds since 1970, with its beginning before the first.

    Each of ``sums`` [T + 1] has what came together until then: tokens, and levels and shares times seconds. Empty
    where the engine made no step.
    """

    start: Mapping[str, Any]
    last: Mapping[str, Any]
    edges: np.ndarray
    sums: Mapping[str, np.ndarray]
    bottlenecks: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """The driver's name of its GPU; empty on a CPU, and where the lines do not say."""
        return str(self.last.get("engine", {}).get("device") or "")

    @property
    def seconds(self) -> float:
        """Of generating, without the time to load."""
        return float(self.last.get("generating_seconds", 0.0))

    def amounts(self, name: str, edges: np.ndarray) -> np.ndarray:
        """What came together [B] between each two of ``edges`` [B + 1]; nothing before and after the run."""
        if name not in self.sums:
            return np.zeros(len(edges) - 1)
        return np.diff(np.interp(edges, self.edges, self.sums[name]))


@dataclass
class _Lines:
    """Those of one run, as they come; before the engine's first step there is nothing to add up."""

    start: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    began: float = 0.0
    times: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    bottlenecks: list[str] = field(default_factory=list)

    def add(self, line: Mapping[str, Any]) -> None:
        self.last = line
        engine = line.get("engine", {})
        if not engine.get("steps", 1):
            return
        if not self.times:
            self.began = line["time"] - line.get("generating_seconds", 0.0)
        values = {name: engine.get(key) for name, key in (*_COUNTERS.items(), *_MOMENTS.items())}
        for group in _SHARES:
            values |= line.get(group, {}) | {group: float(_is_known(group, line.get(group, {})))}
        for name in values.keys() - self.columns.keys():
            self.columns[name] = array("d", [0.0] * len(self.times))
        for name, column in self.columns.items():
            column.append(values.get(name) or 0.0)
        self.times.append(line["time"])
        if line.get("bottleneck"):
            self.bottlenecks.append(str(line["bottleneck"]))

    def run(self) -> Run:
        edges = np.array([self.began, *self.times] if self.times else [])
        spans = np.diff(edges)
        sums = {name: _summed(name, np.array(column), spans) for name, column in self.columns.items()}
        if self.times:
            sums[SECONDS] = edges - self.began
        return Run(self.start, self.last, edges, sums, tuple(self.bottlenecks))


def _is_known(group: str, shares: Mapping[str, float | None]) -> bool:
    """Rates may all be zero, shares of a time add up to one: but for the first moments, before counters change."""
    return bool(shares) and (group == "quality" or any(shares.values()))


def _summed(name: str, values: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """From ``values`` [T] at the ends of ``spans`` [T]."""
    if name in _COUNTERS:
        more = np.diff(values, prepend=0.0)
        parts = np.where(more < 0, values, more)  # a new engine counts anew
    elif name in _MOMENTS:
        parts = spans * (values + np.concatenate((values[:1], values[:-1]))) / 2
    else:
        parts = spans * values
    return np.concatenate(([0.0], np.cumsum(parts)))


def runs_of(lines: Iterable[Mapping[str, Any]]) -> list[Run]:
    """From lines of metrics, those of each run in order; the runs come in the order of their beginnings."""
    found: dict[str, _Lines] = {}
    for line in lines:
        of_run = found.setdefault(str(line.get("run")), _Lines())
        if line["kind"] == "start":
            of_run.start = line
        elif "samples" in line:
            of_run.add(line)
    runs = [of_run.run() for of_run in found.values()]
    return sorted(runs, key=lambda run: float(run.start.get("time") or run.last.get("time", 0.0)))
