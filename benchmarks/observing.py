"""What looking at a run costs it: the same rows with the view, metrics.jsonl, scrapes and the guard, and with none.

    python -m benchmarks.observing --folder /tmp/observing

Two engines: a tiny model of random weights on this CPU, in its own process as in a run, and the stand-in, which
answers at once, so that nothing hides what this process does. The two kinds of run take turns in one process, in an
order that turns too. Prints for each engine the medians, the median of the paired ratios with its quartiles, and what
it costs this process for each answer, in microseconds of its CPU time, which other work on the machine hardly moves.
Nothing is written but metrics: durability has a benchmark of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.durability import Nothing
from benchmarks.echo import write_rows
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
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float  # of this process


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the rows, the model and the metrics")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tiny = EngineProcess(tiny_settings(arguments.folder / "model"))
    try:
        compare("a tiny model", arguments, lambda: tiny, arguments.rows)
    finally:
        tiny.close()
    compare("the stand-in", arguments, None, 20 * arguments.rows)


def tiny_settings(folder: Path) -> EngineSettings:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    model = ModelSettings(path=str(folder), device=Device.cpu, load_format=LoadFormat.dummy)
    return EngineSettings(resolve_model(model), model, EngineConfig(max_num_seqs=NUM_SEQS, cpu_kv_cache_gib=0.1))


def compare(title: str, arguments: argparse.Namespace, start: Callable[[], EngineClient] | None, num_rows: int) -> None:
    source = arguments.folder / f"rows-{num_rows}.jsonl"
    write_rows(source, num_rows)
    settings = ["job=generate", "engine=echo", f"input.path={source}", f"output.dir={arguments.folder / 'out'}"]
    settings += ["sampling.max_tokens=32", "sampling.ignore_eos=true", f"engine.max_num_seqs={NUM_SEQS}"]
    config = compose(settings)
    backend = choose_backend(config)
    plan = Plan(config, backend if start is None else replace(backend, start_engine=start))
    watched: list[Cost] = []
    blind: list[Cost] = []
    for number in range(arguments.rounds + 1):
        for is_watched in (True, False) if number % 2 else (False, True):
            seconds = timed(plan, arguments.folder, is_watched)
            if number:  # the first round warms up
                (watched if is_watched else blind).append(seconds)
    report(title, watched, blind, num_rows)


def timed(plan: Plan, folder: Path, is_watched: bool) -> Cost:
    """Of a whole run over the rows of a plan; the engine stays as it is."""
    guard = QualityGuard() if is_watched else NoGuard()
    progress = watching(plan, folder, guard) if is_watched else NoProgress()
    loop = loop_of(plan, guard, progress)
    began, worked = time.perf_counter(), time.process_time()
    assert loop.run()
    cost = Cost(time.perf_counter() - began, time.process_time() - worked)
    progress.close()
    return cost


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


def report(title: str, watched: list[Cost], blind: list[Cost], num_rows: int) -> None:
    pairs = list(zip(watched, blind, strict=True))
    low, middle, high = statistics.quantiles((a.seconds / b.seconds for a, b in pairs), n=4)
    more = statistics.median(a.cpu_seconds - b.cpu_seconds for a, b in pairs) / num_rows * 1e6
    medians = (statistics.median(cost.seconds for cost in costs) for costs in (watched, blind))
    print(
        f"{title}: {num_rows} answers in {{:.3f}} s watched, {{:.3f}} s not; ratio {middle:.4f} "
        f"({low:.4f} to {high:.4f}), {more:+.2f} us of CPU an answer".format(*medians),
        flush=True,
    )


if __name__ == "__main__":
    main()
