"""What rendering needs of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from runner.text.chat import RenderedChat
from runner.types import Message, Tokenizer


class PromptTokenizer(Tokenizer, Protocol):
    """A `runner.types.Tokenizer` with the batch calls; `TextTokenizer` and `ByteTokenizer` fit."""

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def reads_tools(self) -> bool:
        """Whether the chat template has a place for tools; others would leave them out without a word."""
        ...

    @property
    def num_tokens(self) -> int: ...

    def encode_batch(self, texts: Sequence[str], *, special: bool) -> list[list[int]]: ...

    def render_chat(self, messages: list[Message], **template_kwargs: Any) -> RenderedChat: ...

    def encode_rendered(self, chats: Sequence[RenderedChat]) -> list[list[int]]: ...
