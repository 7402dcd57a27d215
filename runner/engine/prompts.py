"""What callers of the library may give as prompts, made into texts, ids and conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from runner.errors import ConfigError
from runner.text.messages import MessageError, checked_conversation
from runner.types import Message


def as_prompts(prompts: Any) -> list[str | list[int]]:
    """The prompts of one call; a text or a list of ids alone is one prompt, as it is to vLLM. Raises ConfigError."""
    given = [prompts] if isinstance(prompts, str) else _listed("prompts", prompts)
    if given and all(map(_is_id, given)):
        given = [given]
    return [_prompt(i, prompt) for i, prompt in enumerate(given)]


def as_conversations(conversations: Any) -> list[list[Message]]:
    """The conversations of one call; a list of messages alone is one conversation. Raises ConfigError."""
    given = _listed("conversations", conversations)
    if given and isinstance(given[0], Mapping):
        given = [given]
    return [_conversation(i, messages) for i, messages in enumerate(given)]


def check_text(text: str, where: str) -> None:
    """Raises ConfigError for half a surrogate pair, which Python's strings can hold and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {text[error.start]!a} is half a surrogate pair and no text; remove it") from None


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping | str | bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}: {type(value).__name__} is no list of {name}; give a list")
    return list(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _prompt(index: int, prompt: Any) -> str | list[int]:
    if isinstance(prompt, str):
        check_text(prompt, f"generate: prompt {index}")
        return prompt
    if isinstance(prompt, Iterable) and not isinstance(prompt, Mapping | bytes):
        ids = list(prompt)
        if all(map(_is_id, ids)):
            return [int(token) for token in ids]
    raise ConfigError(f"generate: prompt {index} is {type(prompt).__name__}; give a text, or a list of token ids")


def _conversation(index: int, messages: Any) -> list[Message]:
    try:
        return checked_conversation(messages)
    except MessageError as error:
        raise ConfigError(f"chat: conversation {index}: {error}") from None
