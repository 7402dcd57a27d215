"""Values and combinations that have the right type and still cannot work. All such rules stand here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.config import EngineKind, KeepPrompt, LoadFormat, RunnerConfig
from runner.errors import ConfigError
from runner.text import resolve_sampling
from runner.types import FinishReason

_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_ENDINGS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
_PARTITION = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Range:
    """The values that a number may take; ``above`` excludes the lower end."""

    low: float
    high: float = float("inf")
    above: bool = False

    def holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return low if self.high == float("inf") else f"{low}, and at most {self.high:g}"


RANGES = {
    "input.limit": Range(0),
    "engine.max_num_seqs": Range(1),
    "engine.max_num_batched_tokens": Range(1),
    "engine.max_model_len": Range(1),
    "engine.gpu_memory_utilization": Range(0, 1, above=True),
    "engine.cpu_kv_cache_gib": Range(0, above=True),
    "engine.block_size": Range(1),
    "engine.num_kv_blocks": Range(1),
    "launch.array": Range(1),
    "launch.max_running": Range(1),
    "launch.cpus": Range(1),
    "resume.max_idle_attempts": Range(1),
    "output.rows_per_shard": Range(1),
    "output.sync_seconds": Range(0, above=True),
    "output.lease_seconds": Range(1),
    "output.max_error_rate": Range(0, 1),
    "output.max_error_rate_after": Range(0),
    "cost.num_cards": Range(1),
    "cost.dollars_per_gpu_hour": Range(0),
    "guard.window": Range(1),
    "guard.max_truncated": Range(0, 1),
    "guard.max_empty": Range(0, 1),
    "guard.max_repeated": Range(0, 1),
    "guard.max_duplicate": Range(0, 1),
    "guard.max_unparsed": Range(0, 1),
    "metrics.seconds": Range(0),
    "preview.rows": Range(1),
    "preflight.rows": Range(1),
    "profile.rows": Range(1),
    "profile.steps": Range(1),
}


def check_combinations(config: RunnerConfig) -> None:
    """Raises ConfigError with the first value or combination that cannot work."""
    resolve_sampling(config.sampling, {})  # the same rules that hold for a row's own sampling_params
    for problem in _problems(config):
        raise ConfigError(problem)


def _problems(config: RunnerConfig) -> Iterator[str]:
    yield from _ranges(config)
    yield from _job(config)
    yield from _model(config)
    yield from _engine(config)
    yield from _output(config)
    yield from _rerun(config)
    yield from _partition(config)


def _value(config: RunnerConfig, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _ranges(config: RunnerConfig) -> Iterator[str]:
    for key, allowed in RANGES.items():
        value = _value(config, key)
        if value is not None and not allowed.holds(value):
            yield f"{key}={value}: must be {allowed}"


def _job(config: RunnerConfig) -> Iterator[str]:
    job = config.job
    if not job.name.strip(". ") or re.search(r"[/\\\x00-\x1f]", job.name):
        yield f"job.name={job.name!r}: it names a folder, so no slash and not empty; another place is output.dir=..."
    if job.template is not None and job.template_file is not None:
        yield f"job.template_file={job.template_file}: job.template is set too; give one of the two"
    if job.few_shot_file is not None and job.template is None and job.template_file is None:
        yield f"job.few_shot_file={job.few_shot_file}: only a template sees the examples; set job.template too"
    if not job.chat and job.system_prompt is not None:
        yield "job.system_prompt: needs a conversation, and job.chat=false completes raw text; drop one of the two"
    if not job.chat and job.chat_template_kwargs:
        yield "job.chat_template_kwargs: needs the chat template, and job.chat=false has none; drop one of the two"


def _model(config: RunnerConfig) -> Iterator[str]:
    model = config.model
    if not model.path.strip():
        yield "model.path: empty; give a hub id, a local folder or a .gguf file"
    if model.trust_remote_code and model.revision is None:
        yield "model.trust_remote_code=true: runs the repository's code, so pin it with model.revision=COMMIT"
    if model.adapter is not None and model.load_format is LoadFormat.dummy:
        yield f"model.adapter={model.adapter}: has no meaning over random weights (model.load_format=dummy)"


def _engine(config: RunnerConfig) -> Iterator[str]:
    engine = config.engine
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        yield (
            f"engine.max_num_batched_tokens={engine.max_num_batched_tokens}: one step must hold a token of each of "
            f"engine.max_num_seqs={engine.max_num_seqs} sequences"
        )
    if engine.max_model_len is not None and engine.kind is EngineKind.transformers and engine.max_model_len < 2:
        yield f"engine.max_model_len={engine.max_model_len}: no room for a prompt and an answer"


def _output(config: RunnerConfig) -> Iterator[str]:
    output = config.output
    assert output.dir is not None
    if _REMOTE.match(output.dir):
        yield (
            f"output.dir={output.dir}: commits need a local or shared file system; "
            "write to a folder and copy it there when the job is done"
        )
    if not output.dir.strip():
        yield "output.dir: empty; give a folder"
    if output.keep_prompt is KeepPrompt.messages and not config.job.chat:
        yield "output.keep_prompt=messages: job.chat=false has no conversation to keep; use prompt or none"


def _rerun(config: RunnerConfig) -> Iterator[str]:
    rerun, known = config.rerun, [reason.value for reason in _ENDINGS]
    for reason in rerun.finish_reason:
        if reason not in known:
            yield f"rerun.finish_reason=[{reason}]: no answer ends so; there are {', '.join(known)}"
    if config.output.overwrite and (rerun.finish_reason or rerun.error_code):
        yield "output.overwrite=true: leaves nothing for rerun to do again; drop one of the two"


def _partition(config: RunnerConfig) -> Iterator[str]:
    match = _PARTITION.fullmatch(config.partition)
    if config.partition == "auto":
        return
    if match is None or int(match[1]) >= int(match[2]):
        yield f"partition={config.partition}: must be w/W with w from 0 to W-1, such as 0/1 or 3/32, or auto"
