"""What decides the output, by setting name: the values that a job began with and must be continued with."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.config import JobConfig, RunnerConfig, settings
from runner.errors import ConfigError
from runner.run.backends import Backend
from runner.types import Job, SamplingParams

GROWABLE = ("input.limit",)
"""A higher limit only adds rows."""

_BY_CONTENT = {
    "input.path",  # the inventory knows the files themselves
    "input.format",
    "job.module",  # job.code
    "job.template_file",  # job.template
}


def fingerprint(config: RunnerConfig, backend: Backend, job: Job, sampling: SamplingParams) -> dict[str, Any]:
    """Settings by value, files by content: a job file that was moved is the same job, an edited one is not."""
    values = {key: value for key, value in settings(config, "output") if key not in _BY_CONTENT}
    values |= {f"sampling.{name}": value for name, value in asdict(sampling).items()}
    values["job.template"] = _template(config.job)
    values["job.code"] = getattr(job, "code", "")
    values["model.identity"] = backend.identity
    return values


def _template(config: JobConfig) -> str | None:
    if config.template_file is None:
        return config.template
    try:
        text = Path(config.template_file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"job.template_file={config.template_file}: {error.strerror}; give a text file") from None
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
