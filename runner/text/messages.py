"""What a conversation must look like before a chat template sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.types import Message

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class MessageError(ValueError):
    """A conversation that is malformed; says which message and how."""


def checked_conversation(value: Any) -> list[Message]:
    """A conversation that chat templates take: known roles, contents of text alone, no nulls. Raises MessageError."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise MessageError("messages must be a list of at least one message")
    return [_checked_message(i, message) for i, message in enumerate(value)]


def without_nulls(value: Any) -> Any:
    """Arrow fills absent fields of nested objects with null; templates tell absent from null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _checked_message(index: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise MessageError(f"messages[{index}] is not an object with role and content")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise MessageError(f"messages[{index}].role is {role!r}; known are {', '.join(sorted(_ROLES))}")
    kept = {key: without_nulls(value) for key, value in message.items() if value is not None}
    if content is None:
        if role == "assistant" and kept.get("tool_calls"):
            return kept
        raise MessageError(f"messages[{index}] has no content")
    kept["content"] = content if isinstance(content, str) else _joined_parts(index, content)
    return kept


def _joined_parts(index: int, content: Any) -> str:
    """OpenAI's list of content parts, which must all be text."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise MessageError(f"messages[{index}].content is neither a string nor text parts")
    return "\n".join(texts)  # type: ignore[arg-type]
