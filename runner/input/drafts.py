"""Requests on their way: encoded in batches, then fitted into the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from runner.text import RenderedChat
from runner.text.interface import PromptTokenizer
from runner.types import Message, SamplingParams


@dataclass(slots=True)
class Draft:
    """A request before it is whole: raw text, a rendered chat, or ids that came so.

    ``failure`` is why it could not be tokenised.
    """

    index: int
    sampling: SamplingParams
    text: str | None = None
    chat: RenderedChat | None = None
    messages: list[Message] | None = None
    ids: Sequence[int] = ()
    failure: str | None = None

    @property
    def prompt(self) -> str | None:
        """The rendered text; None when ids came without one."""
        return self.chat.text if self.chat else self.text


def fill_ids(drafts: Sequence[Draft], tokenizer: PromptTokenizer) -> None:
    """Encodes all drafts in two batch calls: raw text, where special tokens count, and rendered chats."""
    texts = [draft for draft in drafts if draft.text is not None]
    chats = [draft for draft in drafts if draft.chat is not None]
    _encode(texts, lambda group: tokenizer.encode_batch([draft.text or "" for draft in group], special=True))
    _encode(chats, lambda group: tokenizer.encode_rendered([draft.chat for draft in group if draft.chat]))


def _encode(drafts: list[Draft], encode: Callable[[list[Draft]], list[list[int]]]) -> None:
    """One bad text fails the whole call: then each is encoded by itself."""
    try:
        for draft, ids in zip(drafts, encode(drafts), strict=True):
            draft.ids = ids
    except Exception as error:  # noqa: BLE001 - tokenizers raise what they like; the row carries the reason
        if len(drafts) == 1:
            drafts[0].failure = f"the tokenizer failed: {type(error).__name__}: {error}"
            return
        for draft in drafts:
            _encode([draft], encode)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that leaves room for at least one token of answer."""

    ids: Sequence[int]
    sampling: SamplingParams
    truncated: bool
    clamped: bool


def fit(ids: Sequence[int], sampling: SamplingParams, max_model_len: int | None, truncate: bool) -> Fitted | None:
    """Lowers max_tokens so that prompt and answer fit; None when the prompt alone is too long.

    With ``truncate`` the start of such a prompt is cut, leaving room for max_tokens or half of the context,
    whichever is less.
    """
    if max_model_len is None:
        return Fitted(ids, sampling, truncated=False, clamped=False)
    too_long = len(ids) >= max_model_len
    if too_long and not truncate:
        return None
    if too_long:
        ids = ids[len(ids) - (max_model_len - min(sampling.max_tokens, max_model_len // 2)) :]
    room = max_model_len - len(ids)
    clamped = sampling.max_tokens > room
    if clamped:
        sampling = replace(sampling, max_tokens=room, min_tokens=min(sampling.min_tokens, room))
    return Fitted(ids, sampling, too_long, clamped)
