"""Ids to text as they come, and stop strings in that text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.types import Tokenizer

_UNFINISHED = "\ufffd"


class IncrementalDetokenizer:
    """Turns a growing list of ids into text; what `push` returned is never taken back.

    The text of a token may depend on the one before it (spaces, split characters), so a short window that has
    been given out already is decoded again with the new ids, and only what it adds is new.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._window = 0  # first id of the window
        self._given = 0  # ids whose text was given out

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that became certain with these ids; an unfinished character is held back."""
        self._ids.extend(token_ids)
        before = self._decode(self._window, self._given)
        now = self._decode(self._window, len(self._ids))
        if len(now) <= len(before) or now.endswith(_UNFINISHED):
            return ""
        self._window, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        before = self._decode(self._window, self._given)
        now = self._decode(self._window, len(self._ids))
        self._window = self._given = len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return self._tokenizer.decode(self._ids[start:stop], skip_special_tokens=self._skip) if start < stop else ""


@dataclass(frozen=True, slots=True)
class StopHit:
    """The stop string that ended an answer, the text that is kept, and how many tokens it took to write it."""

    stop: str
    text: str
    num_tokens: int


class StopMatcher:
    """Watches a growing answer for stop strings, whatever the token boundaries.

    The earliest hit wins; of those that start at one place, the first in ``stops``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stops = tuple(stops)
        self._include = include_stop
        self._longest = max(map(len, self._stops), default=0)
        self._text = ""
        self._lengths: list[int] = []  # characters of text after each token

    @property
    def text(self) -> str:
        """All text so far, without what is held back."""
        return self._text

    def push(self, token_ids: Sequence[int]) -> StopHit | None:
        """Takes ids one by one, so that the hit's token is known; ids after a hit are not looked at."""
        for token_id in token_ids:
            hit = self._append(self._detokenizer.push([token_id]))
            if hit:
                return hit
        return None

    def finish(self) -> StopHit | None:
        """Looks at what was held back, at the end of the answer."""
        if not self._lengths:
            return None
        self._lengths.pop()
        return self._append(self._detokenizer.finish())

    def _append(self, new: str) -> StopHit | None:
        searched = max(0, len(self._text) - self._longest + 1)
        self._text += new
        self._lengths.append(len(self._text))
        if not new:
            return None
        starts = [(at, i) for i, stop in enumerate(self._stops) if (at := self._text.find(stop, searched)) >= 0]
        return self._hit(*min(starts)) if starts else None

    def _hit(self, start: int, index: int) -> StopHit:
        stop = self._stops[index]
        kept = self._text[: start + len(stop)] if self._include else self._text[:start]
        num_tokens = next((n for n, length in enumerate(self._lengths, 1) if length >= len(kept)), 0) if kept else 0
        return StopHit(stop, kept, num_tokens)
