"""Checks of conversations, and OpenAI batch lines as conversations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from runner.text.messages import MessageError, checked_conversation, without_nulls
from runner.types import Message

BATCH_COLUMNS = frozenset({"custom_id", "method", "url", "body"})
_CHAT_URL, _TEXT_URL = "/v1/chat/completions", "/v1/completions"
_NO_EFFECT = frozenset({"model", "messages", "prompt", "tools", "user", "metadata", "store", "safety_identifier",
                        "chat_template_kwargs", "max_completion_tokens", "top_logprobs", "logprobs"})  # fmt: skip
_ONLY_AS_DEFAULT = {
    "stream": False,
    "echo": False,
    "best_of": 1,
    "suffix": "",
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "service_tier": "auto",
}


class PromptError(Exception):
    """A prompt that cannot be used; ``code`` names the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Ask:
    """What one row asks for: a prompt as `runner.types.Job.prompt` returns it, and its options."""

    prompt: Any
    sampling: dict[str, Any] = field(default_factory=dict)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    raw: bool = False  # text is the whole prompt, whatever job.chat says


def checked_messages(value: Any, system_prompt: str | None = None) -> list[Message]:
    """A conversation that chat templates take; raises PromptError naming the message that is malformed."""
    try:
        messages = checked_conversation(value)
    except MessageError as error:
        raise PromptError("malformed_messages", str(error)) from None
    if system_prompt is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def ask_of_batch_line(row: dict[str, Any]) -> Ask:
    """An OpenAI batch line; what it asks for and cannot be had is refused, never dropped."""
    url, body = row.get("url"), as_object(row.get("body"), "body")
    if row.get("method") != "POST" or url not in (_CHAT_URL, _TEXT_URL):
        raise PromptError(
            "unsupported_request", f"{row.get('method')} {url} is not supported; use POST {_CHAT_URL} or {_TEXT_URL}"
        )
    for name, default in _ONLY_AS_DEFAULT.items():
        if body.get(name) is not None and without_nulls(body[name]) != default:
            raise PromptError("unsupported_request", f"body.{name}={body[name]!r} is not supported; leave it out")
    prompt = body.get("messages" if url == _CHAT_URL else "prompt")
    if prompt is None:
        raise PromptError("prompt_null", f"body has no {'messages' if url == _CHAT_URL else 'prompt'}")
    kwargs = dict(as_object(body.get("chat_template_kwargs") or {}, "body.chat_template_kwargs"))
    if body.get("tools"):
        kwargs["tools"] = without_nulls(body["tools"])
    return Ask(prompt, _batch_sampling(body), kwargs, raw=url == _TEXT_URL)


def _batch_sampling(body: dict[str, Any]) -> dict[str, Any]:
    values = {
        name: value
        for name, value in body.items()
        if value is not None and name not in _NO_EFFECT and name not in _ONLY_AS_DEFAULT
    }
    if body.get("max_completion_tokens") is not None:
        values["max_tokens"] = body["max_completion_tokens"]
    asked, num_top = body.get("logprobs"), body.get("top_logprobs")
    if asked is True or num_top:  # of conversations: whether at all, and of how many of the best tokens
        values["logprobs"] = num_top or 0
    elif asked is not None and asked is not False:  # of texts: of how many
        values["logprobs"] = asked
    return values


def as_object(value: Any, name: str) -> dict[str, Any]:
    """An object, or the JSON text of one."""
    value = _parsed(value, name)
    if not isinstance(value, dict):
        raise PromptError("malformed_request", f"{name} must be an object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """A list, or the JSON text of one."""
    value = _parsed(value, name)
    if not isinstance(value, list):
        raise PromptError("malformed_messages", f"{name} must be a list")
    return value


def _parsed(value: Any, name: str) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError as error:
        raise PromptError("malformed_request", f"{name} is text but no JSON ({error})") from None
