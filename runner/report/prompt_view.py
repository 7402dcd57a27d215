"""The ids of a prompt as text in which special tokens can be told from text that merely looks like them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from runner.types import Tokenizer


class PromptView:
    """Decodes what the model will see; the ids are the truth, the rendered text is not."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special: dict[int, bool] = {}

    def pieces(self, token_ids: Sequence[int]) -> list[tuple[bool, str]]:
        """Runs of (is one special token, text)."""
        found: list[tuple[bool, str]] = []
        for is_special, group in groupby(map(int, token_ids), self._is_special):
            ids = list(group)
            for run in [[token] for token in ids] if is_special else [ids]:
                found.append((is_special, self._tokenizer.decode(run, skip_special_tokens=False)))
        return found

    def _is_special(self, token_id: int) -> bool:
        """A special token is one that decoding can skip."""
        if token_id not in self._special:
            skipped = self._tokenizer.decode([token_id], skip_special_tokens=True)
            self._special[token_id] = not skipped and bool(
                self._tokenizer.decode([token_id], skip_special_tokens=False)
            )
        return self._special[token_id]
