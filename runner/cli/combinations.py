"""Values and combinations that have the right type and still cannot work; those of numbers are in `runner.limits`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from runner.config import KeepPrompt, RunnerConfig
from runner.errors import ConfigError
from runner.limits import LIMITS, beyond_limits, engine_conflicts, model_conflicts
from runner.text import resolve_sampling
from runner.types import FinishReason

_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
MAX_NAME_BYTES = 200  # most file systems stop at 255, and what is named after the job adds to it
_ENDINGS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
_PARTITION = re.compile(r"(\d+)/(\d+)")


def check_combinations(config: RunnerConfig) -> None:
    """Raises ConfigError with the first value or combination that cannot work."""
    resolve_sampling(config.sampling, {})  # the same rules that hold for a row's own sampling_params
    for problem in _problems(config):
        raise ConfigError(problem)


def _problems(config: RunnerConfig) -> Iterator[str]:
    for section in LIMITS:
        yield from beyond_limits(section, getattr(config, section))
    yield from _job(config)
    yield from model_conflicts(config.model)
    yield from engine_conflicts(config.engine)
    yield from _output(config)
    yield from _rerun(config)
    yield from _partition(config)


def _job(config: RunnerConfig) -> Iterator[str]:
    job = config.job
    if len(os.fsencode(job.name)) > MAX_NAME_BYTES:
        yield f"job.name={job.name[:40]}...: it names a folder and has over {MAX_NAME_BYTES} bytes; give a shorter one"
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
    folder = Path(output.dir).expanduser()
    if "\0" in output.dir:
        yield f"output.dir={output.dir!r}: no name holds a NUL character; remove it"
    for path in (folder, *folder.parents):
        try:
            is_file = path.exists() and not path.is_dir()
        except OSError as error:
            yield f"output.dir={output.dir}: {error.strerror}; give a folder that can be made"
            return
        if is_file:
            yield f"output.dir={output.dir}: {path} is a file; give a folder, or a name that is free"
        elif path.is_symlink() and not path.exists():
            yield f"output.dir={output.dir}: {path} is a link to what is not there; make its target, or remove it"
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
