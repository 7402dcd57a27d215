"""What every sampler offers, and the values that it takes and returns."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

import torch
from torch import Tensor

from runner.engine.sampler.state import SamplingState


class Variant(Enum):
    """How much of the sampler a step needs; the host chooses, since it knows its rows.

    Every variant honours the stop set and min_tokens.
    """

    GREEDY = "greedy"  # every row has temperature 0; noise and filters are never looked at
    PLAIN = "plain"  # greedy rows, temperature, top-k, top-p, min-p
    FULL = "full"  # and penalties, bias, bad words, logprobs


class Status(IntEnum):
    """What became of a row."""

    RUNNING = 0
    STOP = 1  # an end-of-sequence or stop id was sampled
    INVALID = 2  # the logits hold a NaN or +inf, or no token may be sampled; the token is 0


@dataclass(slots=True)
class LogprobsBuffer:
    """Where a sampler writes log-probabilities of the distribution that it sampled from (natural log).

    That distribution is after edits, temperature and filters; a greedy row reports temperature 1 without filters.
    The best tokens come in falling order, -1 with -inf where fewer than K may be sampled.
    """

    sampled: Tensor  # float32 [B]
    token_ids: Tensor  # int32 [B, K]
    logprobs: Tensor  # float32 [B, K]

    @classmethod
    def empty(cls, num_rows: int, num_logprobs: int, device: torch.device | str) -> LogprobsBuffer:
        """Buffers for up to ``num_rows`` rows; ``num_logprobs`` (K) may be 0 for the sampled token alone."""
        return cls(
            torch.empty(num_rows, dtype=torch.float32, device=device),
            torch.empty(num_rows, num_logprobs, dtype=torch.int32, device=device),
            torch.empty(num_rows, num_logprobs, dtype=torch.float32, device=device),
        )


class Sampler(Protocol):
    """Chooses one token a row."""

    def sample(
        self,
        logits: Tensor,
        rows: Tensor,
        positions: Tensor,
        state: SamplingState,
        variant: Variant,
        logprobs: LogprobsBuffer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (tokens int32 [B], status int32 [B] of `Status`).

        ``logits`` [B, V] in bf16, fp16 or fp32 is read only. ``rows`` int32 [B] are slots of ``state``.
        ``positions`` int32 [B] is the index of the sampled token in its whole sequence (prompt + outputs so far):
        with the row's seed it decides the noise, so a draw depends on neither batch nor row order.
        ``logprobs`` is filled in its first B rows under FULL. FULL also counts the sampled token of penalised rows.
        """
        ...


_IMPLEMENTATIONS = {
    "cpu": ("runner.engine.sampler.torch_sampler", "TorchSampler"),
    "cuda": ("runner.engine.sampler.triton_sampler", "TritonSampler"),
}


def load_sampler(device: torch.device) -> Sampler:
    """The sampler of a device; Triton is imported for CUDA only. Raises KeyError for another device type."""
    module, name = _IMPLEMENTATIONS[device.type]
    return getattr(importlib.import_module(module), name)()
