"""One run from settings to exit code: open what is needed, in the order in which it may refuse, then loop."""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import closing
from dataclasses import asdict

from runner.config import RunnerConfig
from runner.errors import ExitCode
from runner.input import Renderer
from runner.output import Output, Reservation
from runner.report.cards import card_of, model_shape
from runner.report.guard import QualityGuard
from runner.report.metrics import MetricsLog
from runner.report.progress import Progress
from runner.report.scrapes import ScrapePoint
from runner.report.summary import log_run, log_summary
from runner.run.backends import choose_backend
from runner.run.budget import ErrorBudget, budget_of
from runner.run.collector import rare_collections
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight
from runner.run.loop import Loop
from runner.run.plan import Plan
from runner.run.recovery import RestartingEngine
from runner.run.source import WorkSource
from runner.run.stop_strings import StopStringWatch
from runner.run.time_limit import TimeLimit, seconds_to_end
from runner.signals import StopFlag
from runner.text import PromptTokenizer

logger = logging.getLogger(__name__)

_SCRAPE_SECONDS = 5.0  # between two looks for scrapes where no metrics are written


def run(config: RunnerConfig, stop: StopFlag) -> ExitCode:
    """Does what is left of a job. Raises RunnerError for what the user can act on.

    What can be refused is refused before the folder changes: the settings, the template, and the model, which its
    engine accepts or not.
    """
    card_of(config.cost.card)
    with rare_collections():
        plan = Plan(config, choose_backend(config))
        with Reservation(plan.folder, plan.output_spec()) as reservation:
            if reservation.is_done:
                logger.info("this job is done; nothing was changed")
            return _work(plan, reservation, stop)


def _work(plan: Plan, reservation: Reservation, stop: StopFlag) -> ExitCode:
    budget = budget_of(plan.config)
    with RestartingEngine(plan.backend.start_engine) as engine:
        tools = _make_ready(plan, engine) if reservation.has_work else None
        with Output.begin(reservation) as output:
            if tools is not None and not _generate(plan, output, stop, engine, budget, *tools):
                logger.info("stopped in order; run the same command again to continue")
                return ExitCode.STOPPED
            summary = output.finish(budget.allows)
    log_summary(summary.path, summary.totals, summary.load_line, is_complete=summary.is_complete)
    if summary.is_complete and not summary.is_whole:
        logger.warning("all asked for is done, but an earlier run asked for more rows: no _SUCCESS until they are done")
    if not reservation.is_done:
        budget.check_end(summary.path, summary.totals)
    return ExitCode.DONE


def _make_ready(plan: Plan, engine: RestartingEngine) -> tuple[PromptTokenizer, Renderer]:
    """Returns once the engine has accepted the model; it loads in a process of its own while this one gets ready."""
    engine.start()
    tokenizer = plan.backend.open_tokenizer()
    renderer = plan.renderer(tokenizer)
    engine.wait_until_ready()
    return tokenizer, renderer


def _generate(
    plan: Plan,
    output: Output,
    stop: StopFlag,
    engine: RestartingEngine,
    budget: ErrorBudget,
    tokenizer: PromptTokenizer,
    renderer: Renderer,
) -> bool:
    """Generates what the output lacks; False when a stop was asked before the end."""
    guard = QualityGuard(plan.config.guard)
    with closing(_progress(plan, output, guard)) as progress:
        budget.begin(output.totals)
        done = _loop(plan, output, stop, engine, guard, progress, budget, tokenizer, renderer).run()
    if engine.ready_since is not None:
        log_run(progress.completion_tokens, time.monotonic() - engine.ready_since, asdict(renderer.counts))
    return done


def _progress(plan: Plan, output: Output, guard: QualityGuard) -> Progress:
    """Over what this partition has still to do, and all that is done."""
    config = plan.config
    done = output.totals.rows - output.rows_to_redo
    left = min(output.ranges_left * config.output.rows_per_shard, plan.inventory.num_rows - done)
    metrics = MetricsLog(output.path, secrets.token_hex(4)) if config.metrics.seconds else None
    if metrics is not None:
        metrics.append(
            {
                "kind": "start",
                "job": config.job.name,
                "model": plan.backend.model_name,
                "partition": config.partition,
                "task": config.launch.task,
                "total_rows": done + left,
                "done_rows": done,
                "max_num_seqs": config.engine.max_num_seqs,
                "dollars_per_gpu_hour": config.cost.dollars_per_gpu_hour,
            }
        )
    port = config.metrics.port
    return Progress(
        done + left,
        done,
        plan.sampling.max_tokens,
        max_num_seqs=config.engine.max_num_seqs,
        shape=model_shape(plan.backend.model_config, config.model.dtype.value),
        guard=guard,
        metrics=metrics,
        metrics_seconds=config.metrics.seconds or _SCRAPE_SECONDS,
        scrapes=None if port is None else ScrapePoint(config.metrics.address, port, config.job.name),
    )


def _loop(
    plan: Plan,
    output: Output,
    stop: StopFlag,
    engine: RestartingEngine,
    guard: QualityGuard,
    progress: Progress,
    budget: ErrorBudget,
    tokenizer: PromptTokenizer,
    renderer: Renderer,
) -> Loop:
    config, backend, samples_per_row = plan.config, plan.backend, plan.sampling.n
    return Loop(
        source=WorkSource(output, plan.reader(), renderer, samples_per_row),
        engine=engine,
        finisher=Finisher(plan.job, tokenizer, plan.columns.names, backend.model_name, backend.reasoning, guard),
        watch=StopStringWatch(tokenizer),
        writer=output,
        inflight=InFlight(config.seed),
        budget=budget,
        guard=guard,
        progress=progress,
        stop=stop,
        max_samples=plan.max_samples,
        samples_per_row=samples_per_row,
        time_limit=TimeLimit(seconds_to_end(config.launch.end_time)),
    )
