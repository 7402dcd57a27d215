"""Bad words of several tokens: the last token of a phrase is banned where the others stand at the end of a sequence.

The newest token of a row may be known to the device alone, so the comparison is made there: each row keeps its
phrases and its own last tokens, and before it samples, the bias of every last token of a phrase is set anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from runner.limits import MAX_BAD_PHRASES, MAX_PHRASE_TOKENS

TAIL = MAX_PHRASE_TOKENS - 1
"""How many tokens of a sequence a phrase can look back at."""
_ANY = -1  # in a phrase: before its first token
_NO_PHRASE = -1  # as a last token
_NO_TOKEN = -2  # in a tail: before the sequence's first token

Tables = tuple[np.ndarray, np.ndarray]


def phrase_tables(phrases: Sequence[str | Sequence[int]]) -> Tables:
    """At most MAX_BAD_PHRASES phrases as (all but the last token, int32 [MAX_BAD_PHRASES, TAIL]; the last, int64)."""
    before = np.full((MAX_BAD_PHRASES, TAIL), _ANY, np.int32)
    last = np.full(MAX_BAD_PHRASES, _NO_PHRASE, np.int64)
    for i, phrase in enumerate(phrases):
        assert not isinstance(phrase, str), "bad words reach the engine as ids"
        before[i] = [_ANY] * (MAX_PHRASE_TOKENS - len(phrase)) + list(phrase[:-1])
        last[i] = phrase[-1]
    return before, last


class PhrasePool:
    """Phrases and tails over edit rows. The row behind the last is nobody's: what is to have no effect goes there."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        rows = capacity + 1
        self._before = torch.full((rows, MAX_BAD_PHRASES, TAIL), _ANY, dtype=torch.int32, device=device)
        self._last = torch.full((rows, MAX_BAD_PHRASES), _NO_PHRASE, dtype=torch.int64, device=device)
        self._bias = torch.zeros(rows, MAX_BAD_PHRASES, dtype=torch.float32, device=device)  # of the last, when allowed
        self._tails = torch.full((rows, TAIL), _NO_TOKEN, dtype=torch.int32, device=device)

    def load(self, row: int, tables: Tables, token_ids: Tensor, bias: Tensor) -> None:
        """Sets a row's phrases, its tokens so far (integer [N]) and the bias that it has without them (float32 [V])."""
        before, last = (torch.from_numpy(table).to(self._tails.device) for table in tables)
        self._before[row], self._last[row] = before, last
        self._bias[row] = bias[last.clamp_min(0)]
        recent = token_ids[-TAIL:]
        self._tails[row].fill_(_NO_TOKEN)[TAIL - len(recent) :] = recent

    def clear(self, row: int) -> None:
        """The row has no phrases."""
        self._last[row].fill_(_NO_PHRASE)

    def ban(self, edit_rows: Tensor, bias: Tensor) -> None:
        """Brings ``bias`` (float32 [capacity + 1, V]) up to date for the next token of ``edit_rows`` (long [B])."""
        last = self._last[edit_rows]
        rows = torch.where(last == _NO_PHRASE, self.capacity, edit_rows[:, None])
        last = last.clamp_min(0)
        before = self._before[edit_rows]
        complete = ((before == self._tails[edit_rows][:, None]) | (before == _ANY)).all(2)
        bias[rows, last] = self._bias[edit_rows]
        # Two phrases may end in one token, so the bans come after every release.
        bias[torch.where(complete, rows, self.capacity), last] = float("-inf")

    def follow(self, edit_rows: Tensor, tokens: Tensor) -> None:
        """Appends each row's sampled token (int32 [B]) to its tail."""
        self._tails[edit_rows] = torch.cat([self._tails[edit_rows][:, 1:], tokens[:, None]], dim=1)

    def widened(self, capacity: int) -> PhrasePool:
        """A pool of more rows that begins with these."""
        wider = PhrasePool(capacity, self._tails.device)
        for old, new in zip(self._tensors(), wider._tensors(), strict=True):
            new[: self.capacity] = old[: self.capacity]
        return wider

    def _tensors(self) -> tuple[Tensor, ...]:
        return self._before, self._last, self._bias, self._tails
