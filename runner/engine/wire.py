"""What crosses between the run and the engine process: a few arrays a message, never one object a token."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    Logprobs,
    Sample,
    SampleKey,
    SamplingParams,
    TokenChunk,
)

PARENT_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
"""Signals that the run answers; the engine process hears of a stop through its socket."""


@dataclass(slots=True)
class Submit:
    """Requests as arrays; ``params`` holds each distinct SamplingParams once."""

    request_ids: np.ndarray  # [N] int64
    ends: np.ndarray  # [N] int64, in token_ids
    token_ids: np.ndarray  # int32, all prompts one after another
    params: list[SamplingParams]
    params_of: np.ndarray  # [N] int32
    samples: list[tuple[tuple[int, ...], tuple[int, ...], bool]]  # (seeds, sample_indices, stream) of each request

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
            [(tuple(r.seeds), tuple(r.sample_indices), r.stream) for r in requests],
        )

    def unpack(self) -> list[EngineRequest]:
        prompts = np.split(self.token_ids, self.ends[:-1])
        return [
            EngineRequest(request_id, prompt, self.params[which], *how)
            for request_id, prompt, which, how in zip(
                self.request_ids.tolist(), prompts, self.params_of.tolist(), self.samples, strict=True
            )
        ]


@dataclass(slots=True)
class Abort:
    samples: list[SampleKey]


@dataclass(slots=True)
class DropWaiting:
    """Only what runs may finish."""


@dataclass(slots=True)
class CloseInput:
    """No more requests will come for now."""


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


End = tuple[FinishReason, int | str | None, str | None, Logprobs | None]


@dataclass(slots=True)
class Progress:
    """Samples and chunks as arrays, and the counters; with neither it is a sign of life."""

    stats: EngineStats
    ids: np.ndarray  # [N, 3] int64: request_id, sample_index, number of tokens
    token_ids: np.ndarray  # int32, one output after another
    ends: list[End | None]  # of samples; None for chunks

    @classmethod
    def pack(cls, outputs: Sequence[Sample | TokenChunk], stats: EngineStats) -> Progress:
        ids = np.array([(o.request_id, o.sample_index, len(o.token_ids)) for o in outputs], np.int64).reshape(-1, 3)
        token_ids = np.array([token for o in outputs for token in o.token_ids], np.int32)
        return cls(stats, ids, token_ids, [_end_of(o) for o in outputs])

    def unpack(self) -> list[Sample | TokenChunk]:
        outputs: list[Sample | TokenChunk] = []
        at = 0
        for (request_id, index, count), end in zip(self.ids.tolist(), self.ends, strict=True):
            tokens = self.token_ids[at : at + count].tolist()
            at += count
            outputs.append(Sample(request_id, index, tokens, *end) if end else TokenChunk(request_id, index, tokens))
        return outputs


def _end_of(output: Sample | TokenChunk) -> End | None:
    if isinstance(output, TokenChunk):
        return None
    return output.finish_reason, output.stop_reason, output.error, output.logprobs
