"""What looking at a run costs it: the same rows with the view, metrics.jsonl, scrapes and the guard, and with none.

    python -m benchmarks.observing --folder /tmp/observing

Two engines: a tiny model of random weights on this CPU, in its own process as in a run, and the stand-in, which
answers at once, so that nothing hides what this process does. Two measurements of each:

- Paired: many short runs in the order watched, blind, blind, watched, so that what gets slower or faster meanwhile
  touches both. The median ratio of their wall clocks with its 95 % interval.
- Counted: every call that a run makes of what looks at it is written down with its moment, then made again on fresh
  objects, again and again, by a clock that says those moments. Their CPU time, which other work on the machine hardly
  moves, over the wall clock of the run: the most by which looking can slow it. Also for each answer and each second.

Nothing is written but metrics: durability has a benchmark of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.durability import Nothing
from benchmarks.echo import write_rows
from benchmarks.workloads import TINY as USUAL_TINY
from runner.cli.compose import compose
from runner.config import Device, EngineConfig, LoadFormat, ModelSettings
from runner.engine import EngineProcess, EngineSettings
from runner.models import resolve_model
from runner.report.cards import model_shape
from runner.report.guard import QualityGuard
from runner.report.metrics import METRICS, MetricsLog
from runner.report.progress import Progress
from runner.report.scrapes import ScrapePoint
from runner.run.backends import choose_backend
from runner.run.budget import ErrorBudget
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight
from runner.run.loop import Loop
from runner.run.plan import Plan
from runner.run.recovery import RestartingEngine
from runner.run.source import WorkSource
from runner.run.stop_strings import StopStringWatch
from runner.signals import StopFlag
from runner.types import Completion, EngineClient, EngineStats, RowResult

NUM_SEQS = 64
ABBA = (True, False, False, True)  # whether a run is watched
TINY = USUAL_TINY | {"vocab_size": 256, "max_position_embeddings": 1024, "dtype": "float32"}


class Call(NamedTuple):
    """One of a run, ``at`` seconds of the monotonic clock."""

    at: float
    of_guard: bool
    name: str
    arguments: tuple[Any, ...]


class NoProgress(Progress):
    """Looks away."""

    def __init__(self) -> None: ...

    def enter(self, phase: str) -> None: ...

    def add_taken(self, num_rows: int, num_samples: int) -> None: ...

    def add_sample(self, completion_tokens: int) -> None: ...

    def add_row(self, result: RowResult) -> None: ...

    def show(self, stats: EngineStats) -> None: ...

    def close(self) -> None: ...


class NoGuard(QualityGuard):
    """Reads no answer."""

    def add(self, completion: Completion, parsed: bool) -> None: ...

    def check(self) -> None: ...


class Recorder:
    """Stands for a `Progress` or a `QualityGuard`: writes down what it is asked, and does nothing."""

    def __init__(self, calls: list[Call], of_guard: bool) -> None:
        self._calls, self._of_guard = calls, of_guard

    def __getattr__(self, name: str) -> Callable[..., None]:
        def record(*arguments: Any, **named: Any) -> None:
            kept = tuple(
                copy(item) if isinstance(item, EngineStats) else item for item in (*arguments, *named.values())
            )
            self._calls.append(Call(time.monotonic(), self._of_guard, name, kept))

        return record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Clock:
    """In place of the module `time`, for those who look: says the moment of the call that is made again."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the rows, the model and the metrics")
    parser.add_argument("--rows", type=int, default=250, help="of a run; the stand-in answers twenty times as many")
    parser.add_argument("--rounds", type=int, default=50, help="of four runs each")
    parser.add_argument("--counted-rows", type=int, default=4000, help="of the run that is written down; as --rows")
    parser.add_argument("--replays", type=int, default=20)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tiny = EngineProcess(tiny_settings(arguments.folder / "model"))
    try:
        compare("a tiny model", arguments, lambda: tiny, 1)
    finally:
        tiny.close()
    compare("the stand-in", arguments, None, 20)


def tiny_settings(folder: Path) -> EngineSettings:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    model = ModelSettings(path=str(folder), device=Device.cpu, load_format=LoadFormat.dummy)
    return EngineSettings(resolve_model(model), model, EngineConfig(max_num_seqs=NUM_SEQS, cpu_kv_cache_gib=0.1))


def compare(title: str, arguments: argparse.Namespace, start: Callable[[], EngineClient] | None, times: int) -> None:
    short, counted = (
        plan_of(arguments.folder, times * rows, start) for rows in (arguments.rows, arguments.counted_rows)
    )
    timed(short, arguments.folder, True)  # warms up
    report_counted(title, *recorded(counted), counted, arguments)
    rounds = [[timed(short, arguments.folder, watched) for watched in ABBA] for _ in range(arguments.rounds)]
    report_paired(title, rounds, times * arguments.rows)


def plan_of(folder: Path, num_rows: int, start: Callable[[], EngineClient] | None) -> Plan:
    source = folder / f"rows-{num_rows}.jsonl"
    write_rows(source, num_rows)
    settings = ["job=generate", "engine=echo", f"input.path={source}", f"output.dir={folder / 'out'}"]
    settings += ["sampling.max_tokens=32", "sampling.ignore_eos=true", f"engine.max_num_seqs={NUM_SEQS}"]
    config = compose(settings)
    backend = choose_backend(config)
    return Plan(config, backend if start is None else replace(backend, start_engine=start))


def timed(plan: Plan, folder: Path, is_watched: bool) -> float:
    """Seconds of a whole run over the rows of a plan; the engine stays as it is."""
    guard = QualityGuard() if is_watched else NoGuard()
    progress = watching(plan, folder, guard) if is_watched else NoProgress()
    loop = loop_of(plan, guard, progress)
    began = time.perf_counter()
    assert loop.run()
    seconds = time.perf_counter() - began
    progress.close()
    return seconds


def recorded(plan: Plan) -> tuple[list[Call], float]:
    """Every call of a run, and its seconds."""
    calls: list[Call] = []
    guard: Any = Recorder(calls, of_guard=True)
    loop = loop_of(plan, guard, Recorder(calls, of_guard=False))
    began = time.perf_counter()
    assert loop.run()
    return calls, time.perf_counter() - began


def replayed(calls: list[Call], plan: Plan, folder: Path) -> tuple[float, float]:
    """CPU seconds of the same calls on objects of a run: of looks at the engine, which draw and measure; of others."""
    clock = Clock(calls[0].at)
    guard = QualityGuard()
    looking = 0.0
    with mock.patch("runner.report.progress.time", clock):
        progress = watching(plan, folder, guard)
        bound = [(call.at, getattr(guard if call.of_guard else progress, call.name), call.arguments) for call in calls]
        show = progress.show
        began = time.process_time()
        for at, method, arguments in bound:
            clock.now = at
            if method == show:
                before = time.process_time()
                method(*arguments)
                looking += time.process_time() - before
            else:
                method(*arguments)
        seconds = time.process_time() - began
        progress.close()
    return looking, seconds - looking


def watching(plan: Plan, folder: Path, guard: QualityGuard) -> Progress:
    """Everything that can look at a run, as often as it does by default."""
    (folder / METRICS.parent).mkdir(exist_ok=True)
    return Progress(
        plan.inventory.num_rows,
        0,
        plan.sampling.max_tokens,
        Terminal(),
        max_num_seqs=NUM_SEQS,
        shape=model_shape(TINY),
        guard=guard,
        metrics=MetricsLog(folder, "observing"),
        scrapes=ScrapePoint("127.0.0.1", 0, "observing"),
    )


def loop_of(plan: Plan, guard: QualityGuard, progress: Any) -> Loop:
    tokenizer = plan.backend.open_tokenizer()
    sink = Nothing(plan.inventory.num_rows, 1000)
    return Loop(
        source=WorkSource(sink, plan.reader(), plan.renderer(tokenizer)),
        engine=RestartingEngine(plan.backend.start_engine),
        finisher=Finisher(plan.job, tokenizer, plan.columns.names, "observing", guard=guard),
        watch=StopStringWatch(tokenizer),
        writer=sink,
        inflight=InFlight(0),
        budget=ErrorBudget(1.0, 1),
        guard=guard,
        progress=progress,
        stop=StopFlag(),
        max_samples=2 * NUM_SEQS,
    )


def report_counted(title: str, calls: list[Call], seconds: float, plan: Plan, arguments: argparse.Namespace) -> None:
    found = [replayed(calls, plan, arguments.folder) for _ in range(arguments.replays)]
    low, middle, high = statistics.quantiles(map(sum, found), n=4)
    looking, other = (statistics.median(part) for part in zip(*found, strict=True))
    answers = sum(call.name == "add_sample" for call in calls)
    print(
        f"{title}, counted: {answers} answers in {seconds:.3f} s; {len(calls)} calls take {middle * 1e3:.2f} ms of CPU "
        f"({low * 1e3:.2f} to {high * 1e3:.2f}), {middle / seconds:.2%} of the run: {looking / seconds * 1e3:.2f} ms a "
        f"second for the view and the metrics, {other / answers * 1e6:.2f} us an answer for the counts",
        flush=True,
    )


def report_paired(title: str, rounds: list[list[float]], num_rows: int) -> None:
    """Each round has the seconds of four runs, in the order of `ABBA`."""
    ratios = [(first + fourth) / (second + third) for first, second, third, fourth in rounds]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    blind = statistics.median(seconds for round_ in rounds for seconds in round_[1:3])
    print(
        f"{title}, paired: {num_rows} answers in {blind:.3f} s not watched; {len(ratios)} ratios, median "
        f"{statistics.median(ratios):.4f}, 95 % interval {medians[50]:.4f} to {medians[-51]:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
