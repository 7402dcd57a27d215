"""A prompt that comes as token ids."""

from __future__ import annotations

from typing import Any

import orjson

from runner.input.conversation import PromptError


def ids_of_column(value: Any, name: str) -> list[int]:
    """The ids [P] of a row's column, P > 0; a list, or the JSON text of one. Raises PromptError.

    A whole number that a reader has widened to a float counts as one.
    """
    ids = _parsed(value, name) if isinstance(value, str) else value
    if not isinstance(ids, list):
        raise PromptError("bad_token_ids", f"{name} is {type(ids).__name__}, not a list of token ids")
    if not ids:
        raise PromptError("no_tokens", f"{name} is empty")
    return [_integer(place, token, name) for place, token in enumerate(ids)]


def checked_ids(ids: list[int], num_tokens: int) -> list[int]:
    """``ids`` where each is one of the tokenizer's; raises PromptError naming the first that is not."""
    if 0 <= min(ids) <= max(ids) < num_tokens:
        return ids
    bad = next(token for token in ids if not 0 <= token < num_tokens)
    raise PromptError(
        "bad_token_ids", f"{str(bad)[:40]} is no token id of this model; they are from 0 to {num_tokens - 1}"
    )


def _parsed(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise PromptError("bad_token_ids", f"{name} is text but no JSON ({error})") from None


def _integer(place: int, token: Any, name: str) -> int:
    if type(token) is int:
        return token
    if type(token) is float and token.is_integer():
        return int(token)
    raise PromptError("bad_token_ids", f"{name}[{place}] is {str(token)[:40]!r}, not a token id")
