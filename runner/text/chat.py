"""A conversation through the model's chat template, with special-token text in its content kept as text.

Where a message contains the text of a special token, that text is replaced by digits that occur nowhere else,
the template runs, and the digits are replaced back afterwards; the pieces between are tokenised apart. Whatever
the template does to content (strip, wrap, drop, compare), it does to the real content, and a conversation
without special-token text is exactly what transformers' apply_chat_template makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import jinja2

from runner.types import Message

_FAULTS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
_FROM_ROWS = ("tools", "documents")
_FIRST_HEAD = 3_029_158
_MARK_TAIL = "4602931845"
_INDEX_DIGITS = 6


class ChatError(ValueError):
    """The chat template refused the conversation, or mangled what must stay text."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """``pieces`` alternate: the template's own text, then literal text, and so on; joined they are ``text``."""

    text: str
    pieces: tuple[str, ...]


class ChatTemplate:
    """The chat template of a transformers tokenizer.

    Guarded are the tokenizer's special tokens, and in messages that are not the assistant's also the added tokens
    that the template itself writes (some models do not flag theirs as special). In assistant messages such
    tokens are part of the format, as ``</think>`` is.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        special = {text for text, is_special in added.items() if is_special} | set(tokenizer.all_special_tokens)
        template = str(tokenizer.chat_template)
        self._special = _any_of(special)
        self._written = _any_of(special | {text for text in added if text in template})

    def render(self, messages: list[Message], template_kwargs: dict[str, Any]) -> RenderedChat:
        """Renders up to the point where the answer starts; an assistant message at the end is continued."""
        inputs = {name: template_kwargs[name] for name in _FROM_ROWS if name in template_kwargs}
        if not any(self._written.search(text) for text in _strings([messages, inputs])):
            text = self._apply(messages, template_kwargs)
            return RenderedChat(text, (text,))
        mark, found = _unused_mark([messages, inputs]), list[str]()
        guarded = [_replace(message, self._pattern(message), mark, found) for message in messages]
        text = self._apply(guarded, {**template_kwargs, **_replace(inputs, self._written, mark, found)})
        return _restore(text, mark, found)

    def _pattern(self, message: Message) -> re.Pattern[str]:
        return self._special if message.get("role") == "assistant" else self._written

    def _apply(self, messages: list[Message], template_kwargs: dict[str, Any]) -> str:
        continues = bool(messages) and messages[-1].get("role") == "assistant"
        try:
            text = self._tokenizer.apply_chat_template(
                [{key: value for key, value in message.items() if value is not None} for message in messages],
                tokenize=False,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                **template_kwargs,
            )
        except _FAULTS as error:
            raise ChatError(f"the chat template refused the conversation: {error}") from None
        if not isinstance(text, str):
            raise ChatError("the chat template gave no text")
        return text


def _any_of(texts: set[str]) -> re.Pattern[str]:
    """Longest first, so that no token hides a longer one; without tokens, a pattern that never matches."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or r"(?!)")


def _replace(value: Any, pattern: re.Pattern[str], mark: str, found: list[str]) -> Any:
    """``value`` with each match in each of its strings replaced by a mark; the matches are appended to ``found``."""
    if isinstance(value, str):
        if not pattern.search(value):
            return value

        def name(match: re.Match[str]) -> str:
            found.append(match.group())
            return f"{mark}{len(found) - 1:0{_INDEX_DIGITS}}"

        return pattern.sub(name, value)
    if isinstance(value, list):
        return [_replace(item, pattern, mark, found) for item in value]
    if isinstance(value, dict):
        return {key: _replace(item, pattern, mark, found) for key, item in value.items()}
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _unused_mark(value: Any) -> str:
    """Digits, which survive any change of case or escaping, and whose head stands nowhere in the conversation.

    Only their first digit is a 7, so that digits of the content beside a mark can never be taken for its start.
    """
    text = " ".join(_strings(value))
    heads = ("7" + str(number).replace("7", "8") for number in count(_FIRST_HEAD))
    return next(head for head in heads if head not in text) + _MARK_TAIL


def _restore(text: str, mark: str, found: list[str]) -> RenderedChat:
    parts = re.split(f"{mark}([0-9]{{{_INDEX_DIGITS}}})", text)
    head = mark[: -len(_MARK_TAIL)]
    if any(head in part for part in parts[0::2]):
        raise ChatError("the chat template cuts through special-token text in a message; remove that text")
    pieces = [found[int(part)] if i % 2 else part for i, part in enumerate(parts)]
    return RenderedChat("".join(pieces), tuple(pieces))
