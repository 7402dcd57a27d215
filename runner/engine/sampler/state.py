"""Sampling parameters over slots, on the device, and how the host packs and admits them.

All parameters of a slot lie in one row of 32-bit words, so that admitting any number of sequences is one copy of a
packet and one scatter. The named tensors (``temperature``, ``top_k``, ...) are views of that row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler.edits import EditPool
from runner.engine.sampler.phrases import TAIL, phrase_tables
from runner.errors import ConfigError
from runner.limits import MAX_STOP_IDS
from runner.types import SamplingParams

NO_EDITS = -1
GREEDY_BELOW = 1e-5
"""A lower temperature is greedy, as in vLLM: dividing by it would overflow and choose the same token."""

ROW = np.dtype(
    [
        ("temperature", "<f4"),  # 0 is greedy
        ("top_k", "<i4"),  # 0 is off
        ("top_p", "<f4"),  # 1 is off
        ("min_p", "<f4"),  # 0 is off
        ("seed_lo", "<i4"),
        ("seed_hi", "<i4"),
        ("min_position", "<i4"),  # stop ids are masked at positions before this one
        ("repetition_penalty", "<f4"),  # 1 is off
        ("presence_penalty", "<f4"),
        ("frequency_penalty", "<f4"),
        ("edit_row", "<i4"),  # the slot's row in the edit pool, or NO_EDITS
        ("stop_ids", "<i4", (MAX_STOP_IDS,)),  # a set, padded with -1
    ]
)
WORDS = ROW.itemsize // 4
FIRST_WORD = {name: ROW.fields[name][1] // 4 for name in ROW.names or () if ROW.fields}
"""Where each parameter begins in a row of words."""


def pack(params: SamplingParams, seed: int, eos_ids: Iterable[int], prompt_len: int) -> np.ndarray:
    """One slot's parameters as a 0-d array of `ROW`; write it into a packet with ``packet[i] = pack(...)``.

    ``seed`` is any int64. ``prompt_len`` is the length of the original prompt, also when outputs are prefilled again.
    Raises ConfigError for more than MAX_STOP_IDS stop ids.
    """
    stop_ids = stop_ids_of(params, eos_ids)
    if len(stop_ids) > MAX_STOP_IDS:
        raise ConfigError(
            f"sampling.stop_token_ids: {len(stop_ids)} ids with the model's own; at most {MAX_STOP_IDS}, drop some"
        )
    low, high = np.array([seed], dtype=np.int64).view(np.int32)
    values = (
        params.temperature if params.temperature >= GREEDY_BELOW else 0.0,
        max(params.top_k, 0),
        params.top_p,
        params.min_p,
        low,
        high,
        prompt_len + params.min_tokens,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        NO_EDITS,
        stop_ids + [-1] * (MAX_STOP_IDS - len(stop_ids)),
    )
    return np.array(values, dtype=ROW)


def stop_ids_of(params: SamplingParams, eos_ids: Iterable[int]) -> list[int]:
    """The ids that end a sample: its own and, unless it ignores them, the model's."""
    return sorted({*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)})


def has_penalties(params: SamplingParams) -> bool:
    """Whether the tokens of the sequence so far change its logits."""
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def needs_edits(params: SamplingParams) -> bool:
    """Whether the slot needs `SamplingState.load_edits` after `admit`, and its steps Variant.FULL."""
    return has_penalties(params) or bool(params.logit_bias) or bool(params.bad_words)


def bias_entries(params: SamplingParams, bad_token_ids: Iterable[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(token ids int64 [N], values float32 [N]) of logit_bias and of the bad words that are one token (-inf)."""
    entries = dict(params.logit_bias) | dict.fromkeys(bad_token_ids, float("-inf"))
    return np.fromiter(entries.keys(), np.int64, len(entries)), np.fromiter(entries.values(), np.float32, len(entries))


class SamplingState:
    """The sampling parameters of ``max_num_seqs + 1`` slots; the last one is the dummy slot of padding rows.

    Every change is an operation on the current stream, so that of the steps on that stream one launched before sees the
    old values and one launched after the new ones. The dummy slot is greedy without a stop set.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device | str) -> None:
        self.num_slots = max_num_seqs + 1
        dummy = pack(SamplingParams(temperature=0.0), 0, (), 0).reshape(1).view(np.int32)
        self.words = torch.from_numpy(dummy).to(device).repeat(self.num_slots, 1)  # int32 [S, WORDS]
        self.edits = EditPool(self.num_slots, vocab_size, self.words.device)

    def admit(self, slots: Tensor, rows: Tensor) -> None:
        """Set the parameters of ``slots`` (integer [N]) to ``rows`` (int32 [N, WORDS], packed rows on the device)."""
        self.words.index_copy_(0, slots.long(), rows)

    def load_edits(
        self,
        slot: int,
        params: SamplingParams,
        prompt_ids: Tensor,
        output_ids: Tensor,
        bias: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Give an admitted slot its penalty counts, its bias (`bias_entries`) and its bad words, which are ids here.

        ``prompt_ids`` and ``output_ids`` (integers, on the device) rebuild counts and tails: a preempted sequence
        passes the outputs that it has. Under asynchronous batching these must be all tokens sampled so far.
        """
        edit_row = self.edits.take(slot)
        if has_penalties(params):
            self.edits.load_counts(edit_row, prompt_ids, output_ids)
        elif self.edits.counts is not None:
            self.edits.counts[edit_row].zero_()
        if len(bias[0]) or params.bad_words:
            self.edits.load_bias(edit_row, *bias)
        elif self.edits.bias is not None:
            self.edits.bias[edit_row].zero_()
        if params.bad_words:
            recent = torch.cat([prompt_ids[-TAIL:], output_ids[-TAIL:]])
            self.edits.load_phrases(edit_row, phrase_tables(params.bad_words), recent)
        else:
            self.edits.clear_phrases(edit_row)
        self.edit_row[slot] = edit_row

    def retire(self, slot: int) -> None:
        """Give the slot's edit row back, if it has one. Steps in flight still see it, as they see the slot."""
        self.edits.give_back(slot)

    def ban(self, rows: Tensor) -> None:
        """Before rows (int32 [B]) are sampled: bans each token that would complete one of their bad words."""
        if self.edits.has_phrases:
            self.edits.ban(self.edit_row[rows.long()])

    def follow(self, rows: Tensor, tokens: Tensor) -> None:
        """After rows were sampled: their bad words go on with these tokens, int32 [B]."""
        if self.edits.has_phrases:
            self.edits.follow(self.edit_row[rows.long()], tokens)

    def _floats(self, name: str) -> Tensor:
        return self.words.view(torch.float32)[:, FIRST_WORD[name]]

    def _integers(self, name: str) -> Tensor:
        return self.words[:, FIRST_WORD[name]]

    @property
    def temperature(self) -> Tensor:
        """float32 [S]"""
        return self._floats("temperature")

    @property
    def top_k(self) -> Tensor:
        """int32 [S]"""
        return self._integers("top_k")

    @property
    def top_p(self) -> Tensor:
        """float32 [S]"""
        return self._floats("top_p")

    @property
    def min_p(self) -> Tensor:
        """float32 [S]"""
        return self._floats("min_p")

    @property
    def edit_row(self) -> Tensor:
        """int32 [S]"""
        return self._integers("edit_row")

    @property
    def stop_ids(self) -> Tensor:
        """int32 [S, MAX_STOP_IDS]"""
        return self.words[:, FIRST_WORD["stop_ids"] :]
