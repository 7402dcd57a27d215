"""Text to ids and back, over transformers' tokenizers.

Importing transformers' AutoTokenizer imports torch where it is installed (about 2.7 s and 300 MB more than the
tokenizer needs), so that import happens in `TextTokenizer.__init__` and nowhere else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.text.chat import ChatTemplate, RenderedChat
from runner.types import Message


class TextTokenizer:
    """The tokenizer in a local folder; fits `runner.types.Tokenizer`. Not for use from two threads at once."""

    def __init__(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:
        """Raises ConfigError when the folder holds no tokenizer that transformers can load."""
        from transformers import AutoTokenizer

        try:
            self._hf: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"model.path={folder} holds no usable tokenizer ({reason}); check the folder") from None
        self._backend = getattr(self._hf, "_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._chat = ChatTemplate(self._hf) if self._hf.chat_template else None
        self._bos_id, self._bos = self._hf.bos_token_id, self._hf.bos_token

    @property
    def has_chat_template(self) -> bool:
        return self._chat is not None

    @property
    def reads_tools(self) -> bool:
        """Whether the chat template, or one of several, has a place for tools."""
        return "tools" in str(self._hf.chat_template)

    @property
    def num_tokens(self) -> int:
        """The number of ids, added tokens included."""
        return len(self._hf)

    @property
    def chat_template(self) -> str | None:
        """The template's source; a dict of named templates gives its default."""
        return self._hf.get_chat_template() if self._chat else None

    def encode(self, text: str, *, special: bool) -> list[int]:
        """``special``: special-token text becomes its id and the tokenizer's own prefix is added, BOS once.

        Otherwise the text is taken literally and nothing is added.
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """As `encode`, for many texts in one call that uses all cores."""
        if not special:
            return self._ids(texts, add=False, literal=True)
        batch = self._ids(texts, add=True)
        return [
            self._once(ids) if self._bos and text.startswith(self._bos) else ids
            for text, ids in zip(texts, batch, strict=True)
        ]

    def render_chat(self, messages: list[Message], **template_kwargs: Any) -> RenderedChat:
        """The conversation as text, still in pieces; raises `ChatError`. See `encode_rendered`."""
        if self._chat is None:
            raise ConfigError("job.chat=true but the model has no chat template; set job.chat=false")
        return self._chat.render(messages, template_kwargs)

    def encode_rendered(self, chats: Sequence[RenderedChat]) -> list[list[int]]:
        """The ids of each conversation: the template's special tokens are ids, those in content are text."""
        command = iter(self._ids([piece for chat in chats for piece in chat.pieces[0::2]], add=False))
        literal = iter(self._literal_ids([piece for chat in chats for piece in chat.pieces[1::2]]))
        return [
            next(command)
            if len(chat.pieces) == 1
            else [token for i in range(len(chat.pieces)) for token in next(literal if i % 2 else command)]
            for chat in chats
        ]

    def encode_chat(self, messages: list[Message], **template_kwargs: Any) -> tuple[str, list[int]]:
        """The rendered conversation and its ids; an assistant message at the end is continued."""
        chat = self.render_chat(messages, **template_kwargs)
        return chat.text, self.encode_rendered([chat])[0]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Bytes that are no UTF-8 become U+FFFD."""
        if self._backend is not None:
            return self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return self._hf.decode(token_ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)

    def _once(self, ids: list[int]) -> list[int]:
        """The prefix BOS is dropped where the text brought one."""
        return ids[1:] if ids[:2] == [self._bos_id] * 2 else ids

    def _literal_ids(self, tokens: list[str]) -> list[list[int]]:
        """The ids of the text of added tokens. Cut in two, so that also those not flagged as special stay text."""
        heads = self._ids([token[:1] for token in tokens], add=False, literal=True)
        tails = self._ids([token[1:] for token in tokens], add=False, literal=True)
        return [head + tail for head, tail in zip(heads, tails, strict=True)]

    def _ids(self, texts: Sequence[str], *, add: bool, literal: bool = False) -> list[list[int]]:
        """``literal``: special tokens' text is text."""
        if not texts:
            return []
        if self._backend is None:
            return self._hf(list(texts), add_special_tokens=add, split_special_tokens=literal)["input_ids"]
        self._backend.encode_special_tokens = literal
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add)
        return [encoding.ids for encoding in encodings]
