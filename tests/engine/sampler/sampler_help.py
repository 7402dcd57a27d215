"""States and calls that the sampler's tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler import ROW, WORDS, LogprobsBuffer, Sampler, SamplingState, Variant, pack
from runner.types import SamplingParams


def packed(params: Sequence[SamplingParams], seeds: Sequence[int], eos_ids: tuple[int, ...], prompt_len: int) -> Tensor:
    rows = np.empty(len(params), dtype=ROW)
    for i, (one, seed) in enumerate(zip(params, seeds, strict=True)):
        rows[i] = pack(one, seed, eos_ids, prompt_len)
    return torch.from_numpy(rows.view(np.int32).reshape(-1, WORDS))


def state_of(
    params: Sequence[SamplingParams],
    vocab_size: int,
    seeds: Sequence[int] | None = None,
    eos_ids: tuple[int, ...] = (),
    prompt_len: int = 0,
    device: str = "cpu",
) -> SamplingState:
    """A state whose slot i has ``params[i]``."""
    state = SamplingState(len(params), vocab_size, device)
    rows = packed(params, seeds or range(len(params)), eos_ids, prompt_len)
    state.admit(torch.arange(len(params), device=device), rows.to(device))
    return state


def draw(
    sampler: Sampler,
    logits: Tensor,
    state: SamplingState,
    positions: Sequence[int] | int = 0,
    rows: Sequence[int] | None = None,
    variant: Variant = Variant.PLAIN,
    logprobs: LogprobsBuffer | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample rows 0.. of the state; one position serves all."""
    count, device = len(logits), logits.device
    row_ids = torch.tensor(range(count) if rows is None else rows, dtype=torch.int32, device=device)
    spots = [positions] * count if isinstance(positions, int) else list(positions)
    place = torch.tensor(spots, dtype=torch.int32, device=device)
    tokens, status = sampler.sample(logits, row_ids, place, state, variant, logprobs)
    return tokens.cpu(), status.cpu()
