"""Per-sequence changes to the logits: token counts for penalties, biases, and phrases that change the biases.

Counts and biases are [rows x vocab]. All is allocated only when a sequence asks, for as many rows as ask at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler.phrases import PhrasePool, Tables

SEEN = 1
"""Bit 0 of a count word: the token is in the prompt. The number of times it was sampled lies above."""
COUNT_SHIFT = 1
ONE_OUTPUT = 1 << COUNT_SHIFT


class EditPool:
    """Rows of counts, biases and phrases, handed out to slots. The row behind the last is nobody's.

    ``generation`` rises whenever a tensor is allocated anew: a CUDA graph captured before holds stale addresses and
    must not be replayed with Variant.FULL.
    """

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self.counts: Tensor | None = None  # int32 [capacity + 1, V]: SEEN | count << COUNT_SHIFT
        self.bias: Tensor | None = None  # float32 [capacity + 1, V], added to the logits; -inf bans
        self.generation = 0
        self._max_rows = max_rows
        self._vocab_size = vocab_size
        self._device = device
        self._capacity = 0
        self._free: list[int] = []
        self._row_of: dict[int, int] = {}
        self._phrases: PhrasePool | None = None
        self._with_phrases: set[int] = set()

    def take(self, slot: int) -> int:
        """The pool row of a slot, a fresh one if it has none; its content is undefined."""
        if slot not in self._row_of:
            if not self._free:
                self._grow()
            self._row_of[slot] = self._free.pop()
        return self._row_of[slot]

    def give_back(self, slot: int) -> None:
        """Free the slot's row, if it has one."""
        row = self._row_of.pop(slot, None)
        if row is not None:
            self._free.append(row)
            self.clear_phrases(row)

    def load_counts(self, row: int, prompt_ids: Tensor, output_ids: Tensor) -> None:
        """Count the tokens of a sequence anew."""
        if self.counts is None:
            self.counts = self._allocate(torch.int32)
        counts = self.counts[row].zero_()
        outputs = output_ids.long()
        counts.index_add_(0, outputs, torch.full_like(outputs, ONE_OUTPUT, dtype=torch.int32))
        # A token is marked once however often the prompt has it, so this adds to outputs without disturbing them.
        seen = prompt_ids.long()
        counts.index_copy_(0, seen, counts[seen] | SEEN)

    def load_bias(self, row: int, token_ids: np.ndarray, values: np.ndarray) -> None:
        """Set the biases of a sequence: integer [N] ids below V, each once, and float32 [N] values."""
        if self.bias is None:
            self.bias = self._allocate(torch.float32)
        ids = torch.from_numpy(token_ids).to(self._device)
        self.bias[row].zero_().index_copy_(0, ids, torch.from_numpy(values).to(self._device))

    def load_phrases(self, row: int, tables: Tables, token_ids: Tensor) -> None:
        """Set the bad words of a sequence that has these tokens, after its bias: see `phrases.phrase_tables`."""
        assert self.bias is not None
        if self._phrases is None:
            self._phrases = PhrasePool(self._capacity, self._device)
        self._phrases.load(row, tables, token_ids, self.bias[row])
        self._with_phrases.add(row)

    def clear_phrases(self, row: int) -> None:
        """The sequence of the row has no bad words of several tokens."""
        if row in self._with_phrases:
            assert self._phrases is not None
            self._phrases.clear(row)
            self._with_phrases.remove(row)

    @property
    def has_phrases(self) -> bool:
        """Whether any row has bad words of several tokens; without one, `ban` and `follow` have nothing to do."""
        return bool(self._with_phrases)

    def ban(self, edit_rows: Tensor) -> None:
        """Bans what would complete a bad word in rows [B], NO_EDITS among them."""
        assert self._phrases is not None
        assert self.bias is not None
        self._phrases.ban(self._owned(edit_rows), self.bias)

    def follow(self, edit_rows: Tensor, tokens: Tensor) -> None:
        """What `ban` compares next time goes on with these tokens, int32 [B]."""
        assert self._phrases is not None
        self._phrases.follow(self._owned(edit_rows), tokens)

    def _owned(self, edit_rows: Tensor) -> Tensor:
        """Long [B]: rows without edits get the row behind the last one."""
        return torch.where(edit_rows < 0, self._capacity, edit_rows).long()

    def _allocate(self, dtype: torch.dtype) -> Tensor:
        self.generation += 1
        return torch.zeros(self._capacity + 1, self._vocab_size, dtype=dtype, device=self._device)

    def _grow(self) -> None:
        """Double the number of rows, up to one a slot; running sequences keep theirs."""
        old = self._capacity
        self._capacity = min(max(2 * old, 8), self._max_rows)
        self._free = list(range(self._capacity - 1, old - 1, -1))
        self.counts = self._widened(self.counts)
        self.bias = self._widened(self.bias)
        if self._phrases is not None:
            self._phrases = self._phrases.widened(self._capacity)

    def _widened(self, pool: Tensor | None) -> Tensor | None:
        if pool is None:
            return None
        wider = self._allocate(pool.dtype)
        wider[: len(pool)] = pool
        return wider
