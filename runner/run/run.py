"""One run from settings to exit code: open what is needed, in the order in which it may refuse, then loop."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import asdict
from pathlib import Path

from jobs import load_job
from runner.config import RunnerConfig
from runner.errors import ExitCode
from runner.input import InventoryReader, Renderer
from runner.output import Output, OutputSpec, may_hold_tools, plan_columns
from runner.report.guard import QualityGuard
from runner.report.metrics import MetricsLog
from runner.report.progress import Progress
from runner.report.summary import log_run, log_summary
from runner.run.backends import Backend, choose_backend
from runner.run.budget import budget_of
from runner.run.fingerprint import GROWABLE, fingerprint
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight
from runner.run.intake import take_stock
from runner.run.loop import Loop
from runner.run.recovery import RestartingEngine
from runner.run.rerun import recipe, selection_of
from runner.run.source import WorkSource
from runner.run.stopping import StopWatch
from runner.run.time_limit import TimeLimit, seconds_to_end
from runner.signals import StopFlag
from runner.text import resolve_sampling

logger = logging.getLogger(__name__)

_SPARE_SAMPLES = 64  # wait in the engine at least, so that it never runs dry while rows are rendered


def run(config: RunnerConfig, stop: StopFlag) -> ExitCode:
    """Does what is left of a job. Raises RunnerError for what the user can act on."""
    backend = choose_backend(config)
    plan = _Plan(config, backend)
    with Output.open(plan.folder, plan.spec) as output:
        if output.is_done:
            logger.info("this job is done; nothing was changed")
        elif not plan.generate(output, stop):
            logger.info("stopped in order; run the same command again to continue")
            return ExitCode.STOPPED
        summary = output.finish()
    log_summary(summary.path, summary.totals, summary.load_line, is_complete=summary.is_complete)
    return ExitCode.DONE


class _Plan:
    """Everything that is settled before the model loads: input, job, sampling, columns, fingerprint."""

    def __init__(self, config: RunnerConfig, backend: Backend) -> None:
        assert config.output.dir is not None  # the command line fills it in
        self._config = config
        self._backend = backend
        self.folder = Path(config.output.dir).expanduser()
        self._job = load_job(config.job, config.input)
        self._sampling = resolve_sampling(config.sampling, backend.generation_config)
        self._inventory = take_stock(config, self.folder)
        self._columns = plan_columns(
            self._inventory.schema,
            parsed=self._job.columns,
            keep_prompt=config.output.keep_prompt.value,
            prefix=config.output.column_prefix,
            reasoning=backend.reasoning is not None,
            tool_messages=config.job.module is not None
            or may_hold_tools(self._inventory.schema, (config.input.messages_column, "body")),
        )
        worker, _, workers = config.partition.partition("/")
        self.spec = OutputSpec(
            job_name=config.job.name,
            columns=self._columns,
            num_rows=self._inventory.num_rows,
            fingerprint=fingerprint(config, backend, self._job, self._sampling, self._inventory),
            rows_per_shard=config.output.rows_per_shard,
            sync_seconds=config.output.sync_seconds,
            lease_seconds=config.output.lease_seconds,
            partition=(int(worker), int(workers)) if workers else None,
            task=config.launch.task or "",
            inventory=self._inventory.to_json(),
            accept=tuple(config.resume.accept),
            growable=GROWABLE,
            overwrite=config.output.overwrite,
            max_idle_attempts=config.resume.max_idle_attempts,
            command=recipe(config),
            selection=selection_of(config.rerun),
        )

    def generate(self, output: Output, stop: StopFlag) -> bool:
        """Generates what the output lacks; False when a stop was asked before the end."""
        engine = RestartingEngine(self._backend.start_engine)
        guard = QualityGuard(self._config.guard)
        progress = self._progress(output, guard)
        try:
            if output.ranges_left:
                engine.start()  # loads in a process of its own while this one gets ready
            loop, renderer = self._loop(output, stop, engine, guard, progress)
            done = loop.run()
        finally:
            progress.close()
            engine.close()
        if engine.ready_since is not None:
            log_run(progress.completion_tokens, time.monotonic() - engine.ready_since, asdict(renderer.counts))
        return done

    def _progress(self, output: Output, guard: QualityGuard) -> Progress:
        """Over what this partition has still to do, and all that is done."""
        config = self._config
        done = output.totals.rows - output.rows_to_redo
        left = min(output.ranges_left * self.spec.rows_per_shard, self._inventory.num_rows - done)
        metrics = MetricsLog(output.path, secrets.token_hex(4)) if config.metrics.seconds else None
        if metrics is not None:
            metrics.append(
                {
                    "kind": "start",
                    "job": config.job.name,
                    "model": self._backend.model_name,
                    "partition": config.partition,
                    "task": config.launch.task,
                    "total_rows": done + left,
                    "done_rows": done,
                    "max_num_seqs": config.engine.max_num_seqs,
                }
            )
        return Progress(
            done + left,
            done,
            self._sampling.max_tokens,
            max_num_seqs=config.engine.max_num_seqs,
            guard=guard,
            metrics=metrics,
            metrics_seconds=config.metrics.seconds,
        )

    def _loop(
        self, output: Output, stop: StopFlag, engine: RestartingEngine, guard: QualityGuard, progress: Progress
    ) -> tuple[Loop, Renderer]:
        config = self._config
        tokenizer = self._backend.open_tokenizer()
        renderer = Renderer(
            self._job,
            tokenizer,
            config.job,
            config.input,
            self._sampling,
            self._backend.max_model_len,
            self._inventory.schema.names,
        )
        samples_per_row = self._sampling.n
        loop = Loop(
            source=WorkSource(output, InventoryReader(self._inventory), renderer, samples_per_row),
            engine=engine,
            finisher=Finisher(
                self._job, tokenizer, self._columns.names, self._backend.model_name, self._backend.reasoning, guard
            ),
            watch=StopWatch(tokenizer),
            writer=output,
            inflight=InFlight(config.seed),
            budget=budget_of(config),
            guard=guard,
            progress=progress,
            stop=stop,
            max_samples=config.engine.max_num_seqs + max(config.engine.max_num_seqs, _SPARE_SAMPLES),
            samples_per_row=samples_per_row,
            time_limit=TimeLimit(seconds_to_end(config.launch.end_time)),
        )
        return loop, renderer
