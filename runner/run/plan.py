"""What is settled before a model loads: input, job, sampling, columns. Makes no folder and no engine."""

from __future__ import annotations

from math import ceil
from pathlib import Path

from jobs import load_job
from runner.config import RunnerConfig
from runner.input import InventoryReader, Renderer, refuse_absent
from runner.output import OutputSpec, may_ask_logprobs, may_hold_tools, plan_columns
from runner.run.backends import Backend
from runner.run.fingerprint import GROWABLE, fingerprint
from runner.run.intake import take_stock
from runner.run.rerun import recipe, selection_of
from runner.text import PromptTokenizer, resolve_sampling

_SPARE_SAMPLES = 64  # wait in the engine at least, so that it never runs dry while rows are rendered
_OPEN_RANGES = 8  # in work at once at least: what is done of them stays in memory
_OPEN_ROWS = 8  # in them for each row in flight at least: a range waits for its longest answers


class Plan:
    """A job as its settings, its input and its output folder make it. Raises RunnerError where they refuse it."""

    def __init__(self, config: RunnerConfig, backend: Backend) -> None:
        assert config.output.dir is not None  # the command line fills it in
        self.config = config
        self.backend = backend
        self.folder = Path(config.output.dir).expanduser()
        self.job = load_job(config.job, config.input)
        self.sampling = resolve_sampling(config.sampling, backend.generation_config)
        self._stock = take_stock(config, self.folder)
        self.inventory = self._stock.inventory
        refuse_absent(config.input, self.inventory.schema.names)
        self.columns = plan_columns(
            self.inventory.schema,
            parsed=self.job.columns,
            keep_prompt=config.output.keep_prompt.value,
            prefix=config.output.column_prefix,
            reasoning=backend.reasoning is not None,
            tool_messages=config.job.module is not None
            or may_hold_tools(self.inventory.schema, (config.input.messages_column, "body")),
            logprobs=self.sampling.logprobs is not None
            or may_ask_logprobs(self.inventory.schema, [*filter(None, [config.input.sampling_column]), "body"]),
        )

    @property
    def max_samples(self) -> int:
        """In flight at once, at most."""
        places = self.config.engine.max_num_seqs
        return places + max(places, _SPARE_SAMPLES)

    def _max_open_ranges(self) -> int:
        """So many that small ranges do not leave the engine short of rows."""
        rows_in_flight = self.max_samples / self.sampling.n
        return max(_OPEN_RANGES, ceil(_OPEN_ROWS * rows_in_flight / self.config.output.rows_per_shard))

    def output_spec(self) -> OutputSpec:
        """What the output folder is opened with, the fingerprint among it. Raises ConfigError for a file it names."""
        config = self.config
        worker, _, workers = config.partition.partition("/")
        return OutputSpec(
            job_name=config.job.name,
            columns=self.columns,
            num_rows=self.inventory.num_rows,
            fingerprint=fingerprint(config, self.backend, self.job, self.sampling, self.inventory),
            rows_per_shard=config.output.rows_per_shard,
            sync_seconds=config.output.sync_seconds,
            lease_seconds=config.output.lease_seconds,
            partition=(int(worker), int(workers)) if workers else None,
            task=config.launch.task or "",
            inventory=self.inventory.to_json(),
            # A new input is no change to accept: it needs a job of which nothing is done, and then all is free.
            accept=() if self._stock.is_new else tuple(config.resume.accept),
            growable=() if self._stock.is_new else GROWABLE,
            overwrite=config.output.overwrite,
            max_open_ranges=self._max_open_ranges(),
            max_idle_attempts=config.resume.max_idle_attempts,
            command=recipe(config),
            selection=selection_of(config.rerun),
        )

    def reader(self) -> InventoryReader:
        return InventoryReader(self.inventory)

    def renderer(self, tokenizer: PromptTokenizer) -> Renderer:
        """Raises ConfigError when the template or the settings do not suit the columns."""
        return Renderer(
            self.job,
            tokenizer,
            self.config.job,
            self.config.input,
            self.sampling,
            self.backend.max_model_len,
            self.inventory.schema.names,
        )
