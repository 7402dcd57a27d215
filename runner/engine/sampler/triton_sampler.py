"""The sampler on CUDA: launches that a CUDA graph can capture, with shapes fixed by the batch and the vocabulary."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from runner.engine.sampler.base import LogprobsBuffer, Variant
from runner.engine.sampler.state import SamplingState
from runner.engine.sampler.triton_filters import floor_kernel, survey_kernel
from runner.engine.sampler.triton_kernels import choose_kernel, count_kernel, finish_kernel
from runner.engine.sampler.triton_logprobs import logprobs_kernel

CHOOSE_TILE = 2048
PROGRAMS = 1056
"""About how many programs read the logits: 8 for each of an H100's 132 multiprocessors."""
GROUP = 16
CANDIDATES = 1024
"""Groups of GROUP logits that a program can search in registers: enough for about as many kept tokens."""
SURVEY_TILE = 4096
FLOOR_TILE = 4096
FLOOR_PIVOTS = 4
FLOOR_WARPS = 16
LOGPROBS_TILE = 8192
LOGPROBS_WARPS = 16

Static = dict[str, int]
"""Arguments that a kernel is compiled for."""


class TritonSampler:
    """See `runner.engine.sampler.base.Sampler`. No host synchronisation and nothing kept between calls."""

    def sample(
        self,
        logits: Tensor,
        rows: Tensor,
        positions: Tensor,
        state: SamplingState,
        variant: Variant,
        logprobs: LogprobsBuffer | None = None,
    ) -> tuple[Tensor, Tensor]:
        num_rows, vocab_size = logits.shape
        full = variant is Variant.FULL
        if full:
            state.ban(rows)
        counts = state.edits.counts if full else None
        bias = state.edits.bias if full else None
        # Triton takes no None for a tensor that a switched-off branch would read: the words stand in.
        inputs = (logits, rows, positions, state.words, *(state.words if t is None else t for t in (counts, bias)))
        static = {"VOCAB": vocab_size, "HAS_COUNTS": counts is not None, "HAS_BIAS": bias is not None}
        floors = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
        if variant is not Variant.GREEDY:
            _find_floors(inputs, floors, static)
        tokens, status = _choose(inputs, floors, variant is Variant.GREEDY, static)
        if full and logprobs is not None:
            logprobs_kernel[(num_rows,)](
                *inputs, floors, tokens, status, logprobs.sampled, logprobs.token_ids, logprobs.logprobs,
                logits.stride(0),
                **static, NUM_LOGPROBS=logprobs.token_ids.shape[1], TILE=LOGPROBS_TILE, num_warps=LOGPROBS_WARPS,
            )  # fmt: skip
        if counts is not None:
            count_kernel[(num_rows,)](tokens, status, rows, state.words, counts, vocab_size, num_warps=1)
        if full:
            state.follow(rows, tokens)
        return tokens, status


def _find_floors(inputs: tuple[Tensor, ...], floors: Tensor, static: Static) -> None:
    """Fill ``floors`` with the smallest logit that each row's filters keep."""
    logits = inputs[0]
    num_rows, vocab_size = logits.shape
    num_groups, num_tiles = triton.cdiv(vocab_size, GROUP), triton.cdiv(vocab_size, SURVEY_TILE)
    groups = torch.empty(num_rows, num_groups, dtype=torch.float32, device=logits.device)
    tops = torch.empty(num_rows, num_tiles, dtype=torch.float32, device=logits.device)
    masses = torch.empty_like(tops)
    chosen = torch.empty(num_rows, CANDIDATES, dtype=torch.int32, device=logits.device)
    sizes = {"NUM_GROUPS": num_groups, "GROUP": GROUP}
    survey_kernel[(num_rows, num_tiles)](
        *inputs, groups, tops, masses, logits.stride(0), **static, **sizes, TILE=SURVEY_TILE, num_warps=4
    )
    floor_kernel[(num_rows,)](
        *inputs, groups, tops, masses, chosen, floors, logits.stride(0),
        **static, **sizes, GROUPS=triton.next_power_of_2(num_groups),
        NUM_TILES=num_tiles, TILES=triton.next_power_of_2(num_tiles), CANDIDATES=CANDIDATES,
        PIVOTS=FLOOR_PIVOTS, TILE=FLOOR_TILE, num_warps=FLOOR_WARPS,
    )  # fmt: skip


def _choose(inputs: tuple[Tensor, ...], floors: Tensor, greedy: bool, static: Static) -> tuple[Tensor, Tensor]:
    """Launch the pass over the logits and its reduction; returns (tokens, status)."""
    logits, rows, _, words, *_ = inputs
    num_rows, vocab_size = logits.shape
    tiles = triton.cdiv(vocab_size, CHOOSE_TILE)
    tiles_per_piece = triton.cdiv(tiles, min(tiles, triton.cdiv(PROGRAMS, num_rows)))
    pieces = triton.cdiv(tiles, tiles_per_piece)
    best = torch.empty(num_rows, pieces, dtype=torch.float32, device=logits.device)
    piece_tokens = torch.empty(num_rows, pieces, dtype=torch.int32, device=logits.device)
    choose_kernel[(num_rows, pieces)](
        *inputs, floors, best, piece_tokens, logits.stride(0), tiles_per_piece,
        GREEDY=greedy, **static, TILE=CHOOSE_TILE, num_warps=4,
    )  # fmt: skip
    tokens = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    status = torch.empty_like(tokens)
    # As many as one row has: more rows have fewer, and a kernel for each number would be compiled in mid-run.
    finish_kernel[(num_rows,)](
        best, piece_tokens, rows, words, tokens, status, pieces,
        PIECES=triton.next_power_of_2(min(tiles, PROGRAMS)), num_warps=1,
    )  # fmt: skip
    return tokens, status
