"""The sampler in plain torch: what runs on a CPU, and the reference that the Triton sampler is held to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler.base import LogprobsBuffer, Status, Variant
from runner.engine.sampler.edits import ONE_OUTPUT
from runner.engine.sampler.filters import NEGATIVE_INFINITY, edited_logits, first_max, kept_floor
from runner.engine.sampler.noise import hash_bits, negative_gumbel, row_keys, token_words
from runner.engine.sampler.state import FIRST_WORD, ROW, SamplingState

CHUNK_TOKENS = 1 << 17
"""Logits that are worked on at a time: they and the noise stay in a core's cache, and the call overhead is small."""


@dataclass(slots=True)
class _Batch:
    """One call's rows and what was chosen for them."""

    logits: Tensor  # [B, V]
    params: np.ndarray  # ROW [B]
    positions: np.ndarray  # int32 [B]
    keys: tuple[Tensor, Tensor]  # int32 [B] each
    tokens: Tensor  # int64 [B]
    best: Tensor  # float32 [B], the chosen token's score: not finite where no token could be chosen


class TorchSampler:
    """See `runner.engine.sampler.base.Sampler`. Not for a CUDA graph: the host looks at the parameters."""

    def __init__(self) -> None:
        self._token_words = torch.empty(0, dtype=torch.int32)  # [V]
        self._hash = torch.empty(0, 0, dtype=torch.int32)  # scratch [chunk, V], as the next two
        self._shifted = torch.empty(0, 0, dtype=torch.int32)
        self._scores = torch.empty(0, 0)

    def sample(
        self,
        logits: Tensor,
        rows: Tensor,
        positions: Tensor,
        state: SamplingState,
        variant: Variant,
        logprobs: LogprobsBuffer | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._prepare(logits)
        words = state.words[rows.long()]
        seed_lo, seed_hi = (words[:, FIRST_WORD[name]] for name in ("seed_lo", "seed_hi"))
        batch = _Batch(
            logits,
            words.cpu().numpy().view(ROW)[:, 0],
            positions.cpu().numpy(),
            row_keys(seed_lo, seed_hi, positions.to(torch.int32)),
            torch.zeros(len(rows), dtype=torch.int64, device=logits.device),
            torch.zeros(len(rows), dtype=torch.float32, device=logits.device),
        )
        full = variant is Variant.FULL
        if full:
            state.ban(rows)
        self._choose(batch, state, full, logprobs if full else None)
        valid = batch.best.isfinite()
        batch.tokens.masked_fill_(~valid, 0)
        if full:
            _count(batch, state, valid)
            state.follow(rows, batch.tokens.to(torch.int32))
        stopped = (words[:, FIRST_WORD["stop_ids"] :] == batch.tokens[:, None]).any(1)
        status = torch.where(valid, stopped.to(torch.int32), int(Status.INVALID))
        return batch.tokens.to(torch.int32), status

    def _prepare(self, logits: Tensor) -> None:
        """Size the scratch for this vocabulary."""
        vocab_size = logits.shape[1]
        if len(self._token_words) == vocab_size and self._token_words.device == logits.device:
            return
        self._token_words = token_words(torch.arange(vocab_size, device=logits.device))
        chunk = max(1, CHUNK_TOKENS // vocab_size)
        self._hash = torch.empty(chunk, vocab_size, dtype=torch.int32, device=logits.device)
        self._shifted = torch.empty_like(self._hash)
        self._scores = torch.empty_like(self._hash, dtype=torch.float32)

    def _choose(self, batch: _Batch, state: SamplingState, full: bool, logprobs: LogprobsBuffer | None) -> None:
        """Send each row down the cheapest path that serves it."""
        params = batch.params
        greedy = params["temperature"] == 0
        filtered = (params["top_k"] > 0) | (params["top_p"] < 1) | (params["min_p"] > 0)
        edited = batch.positions < params["min_position"]
        if full:
            edited |= (params["edit_row"] >= 0) | (logprobs is not None)
        alone = edited | (filtered & ~greedy)
        _choose_greedy(batch, np.flatnonzero(greedy & ~alone))
        self._choose_random(batch, np.flatnonzero(~greedy & ~alone))
        pool = state.edits if full else None
        for index in np.flatnonzero(alone).tolist():
            x = edited_logits(batch.logits[index], params[index], int(batch.positions[index]), pool)
            self._choose_alone(batch, index, x, logprobs)

    def _choose_random(self, batch: _Batch, indices: np.ndarray) -> None:
        """Rows with a temperature and nothing else, some at a time."""
        if len(indices) == 0:
            return
        chunk = len(self._hash)
        index, picked = _pick(batch, indices)
        scales = torch.from_numpy(1 / batch.params["temperature"][indices, None]).to(picked.device)
        for part, logits, scale in zip(index.split(chunk), picked.split(chunk), scales.split(chunk), strict=True):
            x = self._scores[: len(part)].copy_(logits).mul_(scale)
            batch.best[part], batch.tokens[part] = first_max(x.sub_(self._noise(batch, part, slice(None))))

    def _noise(self, batch: _Batch, index: Tensor, token_ids: Tensor | slice) -> Tensor:
        """Negative Gumbel noise [rows, tokens] of rows ``index``, in scratch that the next call overwrites."""
        words = self._token_words[token_ids]
        key_0, key_1 = (key[index, None] for key in batch.keys)
        out, shifted = (scratch[: len(index), : len(words)] for scratch in (self._hash, self._shifted))
        return negative_gumbel(hash_bits(words, key_0, key_1, out, shifted), shifted.view(torch.float32))

    def _choose_alone(self, batch: _Batch, index: int, x: Tensor, logprobs: LogprobsBuffer | None) -> None:
        """One row of edited logits [V]: only the tokens that its filters keep pay for noise."""
        params = batch.params[index]
        token = x.argmax()
        best, kept, scores = x[token], None, x
        if best.isfinite() and params["temperature"] > 0:
            kept = (x >= kept_floor(x, params)).nonzero()[:, 0]
            scores = x[kept] * (1 / params["temperature"])
            row = torch.tensor([index], device=x.device)
            choice = (scores - self._noise(batch, row, kept)[0]).argmax()
            token = kept[choice]
        batch.best[index], batch.tokens[index] = best, token
        if logprobs is not None:
            logs = scores.log_softmax(0)
            if kept is not None:
                logs = torch.full_like(x, NEGATIVE_INFINITY).index_copy_(0, kept, logs)
            _write_logprobs(logprobs, index, logs, token)


def _pick(batch: _Batch, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """The rows' indices on the device and their logits, not copied when they are the whole batch."""
    index = torch.from_numpy(indices).to(batch.logits.device)
    return index, batch.logits if len(indices) == len(batch.tokens) else batch.logits[index]


def _choose_greedy(batch: _Batch, indices: np.ndarray) -> None:
    """Rows that take their best token."""
    if len(indices) == 0:
        return
    index, picked = _pick(batch, indices)
    best, tokens = first_max(picked)
    batch.best[index], batch.tokens[index] = best.float(), tokens


def _count(batch: _Batch, state: SamplingState, valid: Tensor) -> None:
    """Count the sampled tokens of the rows that have an edit row."""
    if state.edits.counts is None:
        return
    edit_rows = torch.from_numpy(batch.params["edit_row"]).to(valid.device)
    counted = (edit_rows >= 0) & valid
    state.edits.counts[edit_rows[counted].long(), batch.tokens[counted]] += ONE_OUTPUT


def _write_logprobs(buffer: LogprobsBuffer, index: int, logs: Tensor, token: Tensor) -> None:
    """Fill one row of the buffer from log-probabilities [V]; those of an invalid row are NaN and become -inf."""
    logs = logs.nan_to_num(nan=NEGATIVE_INFINITY, neginf=NEGATIVE_INFINITY)
    buffer.sampled[index] = logs[token]
    count = min(buffer.token_ids.shape[1], len(logs))
    values, ids = _first_best(logs, count)
    buffer.logprobs[index].fill_(NEGATIVE_INFINITY)[:count] = values
    buffer.token_ids[index].fill_(-1)[:count] = torch.where(values.isfinite(), ids, -1).int()


def _first_best(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values, ids) of the ``count`` largest of x [V]; equal ones by id: a longer list begins like a shorter one."""
    if count == 0:
        return x[:0], torch.empty(0, dtype=torch.int64, device=x.device)
    candidates = (x >= x.topk(count).values[-1]).nonzero()[:, 0]
    values, order = x[candidates].sort(descending=True, stable=True)
    return values[:count], candidates[order[:count]]
