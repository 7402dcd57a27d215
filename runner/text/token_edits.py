"""Sampling options that name tokens, checked against the model's own: logit_bias by id, bad_words by text."""

from __future__ import annotations

from dataclasses import replace

from runner.errors import ConfigError
from runner.text.interface import PromptTokenizer
from runner.types import SamplingParams

_NEVER = float("-inf")


def resolve_tokens(params: SamplingParams, tokenizer: PromptTokenizer, prefix: str = "sampling.") -> SamplingParams:
    """``params`` as the engine takes them: bad words became biases of minus infinity on their tokens.

    Raises ConfigError for an id that the model does not have, and for a bad word of several tokens: the engine
    edits logits one token at a time, and keeping out the first of several would keep out innocent words too.
    """
    for token, _ in params.logit_bias:
        if token >= tokenizer.num_tokens:
            raise ConfigError(f"{prefix}logit_bias={token}: the model's token ids end at {tokenizer.num_tokens - 1}")
    if not params.bad_words:
        return params
    banned = {token: _NEVER for word in params.bad_words for token in _tokens_of(word, tokenizer, prefix)}
    return replace(params, bad_words=(), logit_bias=tuple((dict(params.logit_bias) | banned).items()))


def _tokens_of(word: str, tokenizer: PromptTokenizer, prefix: str) -> list[int]:
    """The token of the word as it stands, and the one that it is after a space, where that is one token too."""
    bare = tokenizer.encode(word, special=False)
    if len(bare) != 1:
        raise ConfigError(
            f"{prefix}bad_words={word!r} is {len(bare)} tokens of this model; words of one token can be kept out, "
            "and single ids by logit_bias={ID: -100}"
        )
    spaced = tokenizer.encode(f" {word.lstrip()}", special=False)
    return bare + spaced if len(spaced) == 1 else bare
