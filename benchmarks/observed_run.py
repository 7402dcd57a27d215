"""The run that `benchmarks.observing` looks at, and everything that can look at one, or that looks away."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.durability import Nothing
from benchmarks.echo import write_rows
from benchmarks.workloads import TINY as USUAL_TINY
from runner.cli.compose import compose
from runner.config import Device, EngineConfig, LoadFormat, ModelSettings
from runner.engine import EngineSettings
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
from runner.types import EngineClient

NUM_SEQS = 64
TINY = USUAL_TINY | {"vocab_size": 256, "max_position_embeddings": 1024, "dtype": "float32"}


class Terminal(io.StringIO):
    """Takes what is drawn, and passes for a terminal."""

    def isatty(self) -> bool:
        return True


def tiny_settings(folder: Path) -> EngineSettings:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    model = ModelSettings(path=str(folder), device=Device.cpu, load_format=LoadFormat.dummy)
    return EngineSettings(resolve_model(model), model, EngineConfig(max_num_seqs=NUM_SEQS, cpu_kv_cache_gib=0.1))


def plan_of(folder: Path, num_rows: int, start: Callable[[], EngineClient] | None) -> Plan:
    source = folder / f"rows-{num_rows}.jsonl"
    write_rows(source, num_rows)
    settings = ["job=generate", "engine=echo", f"input.path={source}", f"output.dir={folder / 'out'}"]
    settings += ["sampling.max_tokens=32", "sampling.ignore_eos=true", f"engine.max_num_seqs={NUM_SEQS}"]
    config = compose(settings)
    backend = choose_backend(config)
    return Plan(config, backend if start is None else replace(backend, start_engine=start))


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


def loop_of(plan: Plan, guard: Any, progress: Any, stop: StopFlag | None = None, num_places: int = NUM_SEQS) -> Loop:
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
        stop=stop or StopFlag(),
        max_samples=2 * num_places,
    )
