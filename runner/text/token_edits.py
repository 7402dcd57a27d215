"""Sampling options that name tokens, checked against the model's own: logit_bias by id, bad_words by text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from runner.errors import ConfigError
from runner.limits import MAX_BAD_PHRASES, MAX_PHRASE_TOKENS
from runner.text.interface import PromptTokenizer
from runner.types import SamplingParams

_NEVER = float("-inf")


def resolve_tokens(params: SamplingParams, tokenizer: PromptTokenizer, prefix: str = "sampling.") -> SamplingParams:
    """``params`` as the engine takes them: bad words as ids, those of one token as biases of minus infinity.

    Raises ConfigError for an id that the model does not have, and for bad words that are too long or too many.
    """
    for token, _ in params.logit_bias:
        if token >= tokenizer.num_tokens:
            raise ConfigError(f"{prefix}logit_bias={token}: the model's token ids end at {tokenizer.num_tokens - 1}")
    if not params.bad_words:
        return params
    written = [ids for word in params.bad_words for ids in _ways_to_write(word, tokenizer, prefix)]
    banned = {ids[0]: _NEVER for ids in written if len(ids) == 1}
    phrases = tuple(dict.fromkeys(ids for ids in written if len(ids) > 1 and ids[-1] not in banned))
    if len(phrases) > MAX_BAD_PHRASES:
        raise ConfigError(
            f"{prefix}bad_words: {len(phrases)} ways to write those of several tokens, with a space before them and "
            f"without; at most {MAX_BAD_PHRASES}, drop some"
        )
    return replace(params, bad_words=phrases, logit_bias=tuple((dict(params.logit_bias) | banned).items()))


def _ways_to_write(word: str | tuple[int, ...], tokenizer: PromptTokenizer, prefix: str) -> Iterator[tuple[int, ...]]:
    """The ids of the word as it stands, and of it after a space."""
    assert isinstance(word, str), "these bad words are ids already"
    for text in (word, f" {word.lstrip()}"):
        ids = tuple(tokenizer.encode(text, special=False))
        if not 0 < len(ids) <= MAX_PHRASE_TOKENS:
            raise ConfigError(
                f"{prefix}bad_words={word!r} is {len(ids)} tokens of this model; 1 to {MAX_PHRASE_TOKENS} can be kept "
                "out: give a shorter part of it"
            )
        yield ids
