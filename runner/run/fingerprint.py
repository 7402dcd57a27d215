"""What decides the output, by setting name: the values that a job began with and must be continued with."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.config import RunnerConfig, settings
from runner.errors import ConfigError
from runner.input import Inventory
from runner.run.backends import Backend
from runner.types import Job, SamplingParams

GROWABLE = ("input.limit", "input.files")
"""A higher limit and new files only add rows; `runner.run.intake` has refused any other change of the files."""

_BY_CONTENT = {
    "input.path",  # input.files
    "input.format",  # input.files
    "job.module",  # job.code
    "job.template_file",  # job.template
}


def fingerprint(
    config: RunnerConfig, backend: Backend, job: Job, sampling: SamplingParams, inventory: Inventory
) -> dict[str, Any]:
    """Settings by value, files by content: a job file that was moved is the same job, an edited one is not."""
    values = {key: value for key, value in settings(config, "output") if key not in _BY_CONTENT}
    values |= {f"sampling.{name}": value for name, value in asdict(sampling).items()}
    values["input.files"] = content_of(inventory)
    values["job.template"] = _content("job.template_file", config.job.template_file) or config.job.template
    values["job.few_shot_file"] = _content("job.few_shot_file", config.job.few_shot_file)
    values["job.code"] = getattr(job, "code", "")
    values["model.identity"] = backend.identity
    return values


def content_of(inventory: Inventory) -> str:
    """Of the input files, in their order; not their names."""
    files = [(file.format, file.identity.digest, file.num_rows) for file in inventory.files]
    return f"{len(files)} files, sha256:{hashlib.sha256(repr(files).encode()).hexdigest()}"


def _content(key: str, name: str | None) -> str | None:
    """The hash of a file that a setting names."""
    if name is None:
        return None
    try:
        text = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}={name}: {error.strerror}; give a text file") from None
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
