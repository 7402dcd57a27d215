"""Doing some samples of finished rows again: which settings may differ, and what of a rendered row is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from runner.config import RerunConfig, RunnerConfig
from runner.output import SampleKeys, Selection
from runner.types import Request, RowError, RowResult, Stage

_FREE = ("seed", "engine.max_model_len")
_FIXED = ("sampling.n",)  # the samples of a row are what the output counts


def selection_of(config: RerunConfig) -> Selection | None:
    """What the settings name; None for an ordinary run."""
    if not config.finish_reason and not config.error_code:
        return None
    return Selection(tuple(config.finish_reason), tuple(config.error_code), is_free)


def is_free(key: str) -> bool:
    """Settings that lines may be done again under: how an answer is drawn, and how long it may be."""
    return key in _FREE or (key.startswith("sampling.") and key not in _FIXED)


def recipe(config: RunnerConfig) -> dict[str, Any]:
    """The settings of a run and where it was started, as JSON can hold them: what a retry needs."""
    return {"directory": str(Path.cwd()), "settings": _plain(asdict(config))}


def narrow(result: RowResult, requests: Sequence[Request], wanted: SampleKeys) -> set[tuple[int, int]]:
    """Leaves of a rendered row only what is wanted: returns the samples to generate, and mends the result.

    What is wanted and can no longer be had becomes an error of its own: the samples that stay are not touched.
    """
    if (None, None) in wanted:
        return {(request.request_index, i) for request in requests for i in range(request.sampling.n)}
    pending: set[tuple[int, int]] = set()
    errors: list[RowError] = []
    for request_index, sample_index in sorted(wanted, key=str):
        samples = {(r.request_index, i) for r in requests if r.request_index == request_index for i in _samples(r)}
        found = {key for key in samples if sample_index in (None, key[1])}
        pending |= found
        if not found:
            error = _reason(result, request_index)
            number = error.num_samples if sample_index is None else 1
            errors.append(replace(error, request_index=request_index, sample_index=sample_index, num_samples=number))
    result.errors = errors
    return pending


def _samples(request: Request) -> range:
    return range(request.sampling.n)


def _reason(result: RowResult, request_index: int | None) -> RowError:
    """Why a request is not there: its own error, the row's, or that the job no longer makes it."""
    for error in result.errors:
        if error.request_index in (None, request_index):
            return error
    row, message = result.row, "the job no longer makes this request of the row"
    assert row is not None  # one that cannot be read has an error of its own
    return RowError(row.row_id, Stage.RENDER, "request_gone", message, row.file, row.line, source=row.values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
