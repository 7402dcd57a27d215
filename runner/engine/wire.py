"""What crosses between the run and the engine process: a few arrays a message, never one object a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.types import EngineRequest, EngineStats, FinishReason, Sample, SamplingParams


@dataclass(slots=True)
class Submit:
    """Requests as arrays; ``params`` holds each distinct SamplingParams once."""

    request_ids: np.ndarray  # [N] int64
    ends: np.ndarray  # [N] int64, in token_ids
    token_ids: np.ndarray  # int32, all prompts one after another
    params: list[SamplingParams]
    params_of: np.ndarray  # [N] int32
    samples: list[tuple[tuple[int, ...], tuple[int, ...]]]  # (seeds, sample_indices) of each request

    @classmethod
    def pack(cls, requests: Sequence[EngineRequest]) -> Submit:
        known: dict[SamplingParams, int] = {}
        params_of = [known.setdefault(r.sampling, len(known)) for r in requests]
        prompts = [np.asarray(r.prompt_token_ids, np.int32) for r in requests]
        return cls(
            np.array([r.request_id for r in requests], np.int64),
            np.cumsum([len(p) for p in prompts], dtype=np.int64),
            np.concatenate(prompts) if prompts else np.empty(0, np.int32),
            list(known),
            np.array(params_of, np.int32),
            [(tuple(r.seeds), tuple(r.sample_indices)) for r in requests],
        )

    def unpack(self) -> list[EngineRequest]:
        prompts = np.split(self.token_ids, self.ends[:-1])
        return [
            EngineRequest(request_id, prompt, self.params[which], seeds, indices)
            for request_id, prompt, which, (seeds, indices) in zip(
                self.request_ids.tolist(), prompts, self.params_of.tolist(), self.samples, strict=True
            )
        ]


@dataclass(slots=True)
class Abort:
    request_ids: list[int]


@dataclass(slots=True)
class Close:
    """The engine ends once this arrives, whatever is still running."""


@dataclass(slots=True)
class Ready:
    """The engine has loaded its model."""


@dataclass(slots=True)
class Failed:
    """The engine ends. ``exit_code`` is that of a RunnerError, or None for a bug, with its traceback."""

    message: str
    exit_code: int | None = None


@dataclass(slots=True)
class Progress:
    """Finished samples as arrays, and the counters; without samples it is a sign of life."""

    stats: EngineStats
    ids: np.ndarray  # [N, 3] int64: request_id, sample_index, number of tokens
    token_ids: np.ndarray  # int32
    ends: list[tuple[FinishReason, int | str | None, str | None, Any]]  # reason, stop_reason, error, logprobs

    @classmethod
    def pack(cls, samples: Sequence[Sample], stats: EngineStats) -> Progress:
        ids = np.array([(s.request_id, s.sample_index, len(s.token_ids)) for s in samples], np.int64).reshape(-1, 3)
        token_ids = np.concatenate([np.array(s.token_ids, np.int32) for s in samples]) if samples else _NOTHING
        return cls(stats, ids, token_ids, [(s.finish_reason, s.stop_reason, s.error, s.logprobs) for s in samples])

    def unpack(self) -> list[Sample]:
        samples, at = [], 0
        for (request_id, index, count), end in zip(self.ids.tolist(), self.ends, strict=True):
            samples.append(Sample(request_id, index, self.token_ids[at : at + count].tolist(), *end))
            at += count
        return samples


_NOTHING = np.empty(0, np.int32)
