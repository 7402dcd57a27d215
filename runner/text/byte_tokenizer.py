"""A tokenizer without a model: one id a byte of UTF-8. For the stand-in engine and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.errors import ConfigError
from runner.text.chat import RenderedChat
from runner.types import Message


class ByteTokenizer:
    """Has no special tokens and no chat template."""

    has_chat_template = False
    reads_tools = True
    num_tokens = 256

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        return [list(text.encode("utf-8")) for text in texts]

    def render_chat(self, messages: list[Message], **template_kwargs: Any) -> RenderedChat:
        raise ConfigError("job.chat: the byte tokenizer has no chat template; give a model, or prompts as text")

    def encode_rendered(self, chats: Sequence[RenderedChat]) -> list[list[int]]:
        return self.encode_batch([chat.text for chat in chats], special=False)

    def encode_chat(self, messages: list[Message], **template_kwargs: Any) -> tuple[str, list[int]]:
        chat = self.render_chat(messages, **template_kwargs)
        return chat.text, self.encode_rendered([chat])[0]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(token_ids).decode("utf-8", "replace")
