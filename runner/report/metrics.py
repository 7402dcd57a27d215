"""What is measured every few seconds, as lines of JSON, for reports and for other programs.

Each run of a job has a file of its own in .runner/metrics/: appending from several machines to one file on a shared
file system loses lines. `read_metrics` puts those of all partitions and attempts together.

A line has ``kind`` "start", "sample" or "end" and ``time`` in seconds since 1970. A sample holds the counts of this
run so far (rows, samples, errors by code, finished_tokens), what the engine's counters say, and the shares of the
time since the line before in which this process rendered, finished rows, wrote, or waited for the engine.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

METRICS = Path(".runner") / "metrics"


class MetricsLog:
    """Appends lines to the file of one run, each in one write.

    Measuring never ends a run: a disk that refuses ends the measuring, with a warning.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """``run`` names this run in its lines, and its file; no other run has that name."""
        self._path = folder / METRICS / f"{run}.jsonl"
        self._run = run
        self._is_open = True

    def append(self, line: Mapping[str, Any]) -> None:
        if not self._is_open:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                stamped = {"time": round(time.time(), 3), "run": self._run, **line}
                file.write(json.dumps(stamped, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            self._is_open = False
            logger.warning("%s: %s; no more metrics are written", self._path, error.strerror)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of all runs in the order of their times."""
    return sorted(metrics_by_run(folder), key=lambda line: line["time"])


def metrics_by_run(folder: Path) -> Iterator[dict[str, Any]]:
    """One run's lines after another's, those of each in order, one at a time in memory: a night of many processes
    leaves hundreds of megabytes. A torn line, as a kill leaves it, is skipped."""
    for path in sorted((folder / METRICS).glob("*.jsonl")):
        with path.open("rb") as file:
            yield from filter(None, map(_line, file))


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and "kind" in line and "time" in line else None


@dataclass(frozen=True)
class Measured:
    """What an earlier run tells about the next one. ``tokens_per_second`` counts completion tokens.

    ``device`` is the driver's name of the card; empty for a CPU, and where the run does not say.
    """

    model: str
    device: str
    samples: int
    mean_answer: float
    tokens_per_second: float


def last_measured(folder: Path) -> Measured | None:
    """From the last run in the folder that finished an answer of a token at least."""
    model, found, began = "", None, 0.0
    for line in read_metrics(folder):
        if line["kind"] == "start":
            model = str(line.get("model", ""))
        samples, tokens = line.get("samples", 0), line.get("finished_tokens", 0)
        if line["kind"] == "start" or not samples or not tokens:
            continue
        began = line["time"] - line.get("generating_seconds", 0.0)
        seconds = line["time"] - began
        if seconds > 0:
            device = str(line.get("engine", {}).get("device", ""))
            found = Measured(model, device, samples, tokens / samples, tokens / seconds)
    return found
