"""All runs of a job on one clock: what they did together, with stops where none of them ran.

A stop of a night beside a run of an hour would leave no room for the run: on the chart a stop takes little, and says
how long it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runner.report.runs import Run

_MOST_BINS = 150
_STOP_SHARE = 0.04  # of the running time: the most that a stop takes of the chart
_TAIL_SHARE = 0.5
_LEAST_KNOWN = 1e-6  # seconds

Curve = list[float | None]
"""A value for each of an axis' ``times``; None where nothing ran."""


@dataclass(frozen=True)
class Stop:
    """From ``start`` to ``end`` on the chart, ``seconds`` in truth."""

    start: float
    end: float
    seconds: float


@dataclass(frozen=True)
class Axis:
    """Where the values of curves stand, in seconds of the chart; ``seconds`` is how long all took, stops included."""

    times: Sequence[float]
    stops: Sequence[Stop] = ()
    seconds: float = 0.0


class Timeline:
    """Runs in bins of equal length, in stretches between which nothing ran."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = [run for run in runs if len(run.edges) > 1 and run.edges[-1] > run.edges[0]]
        self._bins = _bins(self._runs)
        self.axis = _axis(self._bins)

    def total(self, name: str) -> Curve:
        """Of all runs together: tokens a second, or how many there were at once."""
        return self._curve(
            [sum(run.amounts(name, edges) for run in self._runs) / np.diff(edges) for edges in self._bins]
        )

    def mean(self, group: str, *names: str) -> Curve:
        """The share of the time of those that ran, summed over ``names`` of a group of shares; None while unknown."""
        means = []
        for edges in self._bins:
            known = np.asarray(sum(run.amounts(group, edges) for run in self._runs))
            parts = np.asarray(sum(run.amounts(name, edges) for run in self._runs for name in names))
            means.append(np.where(known > _LEAST_KNOWN, parts / np.maximum(known, _LEAST_KNOWN), np.nan))
        return self._curve(means)

    def tail_began(self) -> float:
        """The moment after which fewer than half of the most sequences ran, in the last stretch."""
        if not self._bins:
            return 0.0
        edges = self._bins[-1]
        running = np.asarray(sum(run.amounts("running", edges) for run in self._runs)) / np.diff(edges)
        full = np.flatnonzero(running >= _TAIL_SHARE * running.max())
        return float(edges[full[-1] + 1]) if running.max() > 0 else float(edges[-1])

    @property
    def ended(self) -> float:
        return float(self._bins[-1][-1]) if self._bins else 0.0

    def _curve(self, stretches: Sequence[np.ndarray]) -> Curve:
        """A bin's value stands in its middle; the first and the last reach to the ends of their stretch."""
        found: Curve = []
        for values in stretches:
            found += [*([None] if found else []), values[0], *values, values[-1]]
        return [None if value is None or np.isnan(value) else float(value) for value in found]


def _bins(runs: Sequence[Run]) -> list[np.ndarray]:
    """The edges of the bins of each stretch."""
    stretches = _stretches(runs, 0.0)
    if not stretches:
        return []
    usual = float(np.median(np.concatenate([np.diff(run.edges) for run in runs])))
    width = max(sum(end - start for start, end in stretches) / _MOST_BINS, usual)
    return [np.linspace(start, end, max(round((end - start) / width), 1) + 1) for start, end in _stretches(runs, width)]


def _stretches(runs: Sequence[Run], patience: float) -> list[tuple[float, float]]:
    """From the start to the end of what overlaps or follows within ``patience`` seconds."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((float(run.edges[0]), float(run.edges[-1])) for run in runs):
        if found and start <= found[-1][1] + patience:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _axis(bins: Sequence[np.ndarray]) -> Axis:
    if not bins:
        return Axis(())
    most = _STOP_SHARE * sum(float(edges[-1] - edges[0]) for edges in bins)
    times: list[float] = []
    stops: list[Stop] = []
    shift = -float(bins[0][0])  # from the clock to the chart
    for before, edges in pairwise([None, *bins]):
        assert edges is not None
        if before is not None:
            seconds = float(edges[0] - before[-1])
            stops.append(Stop(times[-1], times[-1] + min(seconds, most), seconds))
            shift -= seconds - min(seconds, most)
            times.append((stops[-1].start + stops[-1].end) / 2)
        middles = (edges[:-1] + edges[1:]) / 2
        times += [float(moment) + shift for moment in (edges[0], *middles, edges[-1])]
    return Axis(times, stops, float(bins[-1][-1] - bins[0][0]))
