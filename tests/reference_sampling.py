"""Sampling options as transformers' logits processors: what every sampler and engine is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from runner.types import SamplingParams


def stop_ids_of(params: SamplingParams, eos_ids: tuple[int, ...]) -> list[int]:
    return sorted({*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)})


class VllmPenalties(hf.LogitsProcessor):
    """Presence and frequency, which transformers does not have: over the tokens behind the prompt."""

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        counts = torch.bincount(input_ids[0, self._prompt_length :], minlength=scores.shape[1])
        return scores - self._params.frequency_penalty * counts - self._params.presence_penalty * (counts > 0)


def processors(params: SamplingParams, prompt_length: int, eos_ids: tuple[int, ...]) -> hf.LogitsProcessorList:
    """In the order in which ``generate`` puts them."""
    found: list[Any] = []
    stop_ids = stop_ids_of(params, eos_ids)
    if params.logit_bias:
        found.append(hf.SequenceBiasLogitsProcessor({(token,): value for token, value in params.logit_bias}))
    if params.repetition_penalty != 1:
        found.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    found.append(VllmPenalties(params, prompt_length))
    if params.bad_words:
        found.append(hf.NoBadWordsLogitsProcessor([list(phrase) for phrase in params.bad_words]))
    if params.min_tokens and stop_ids:
        found.append(hf.MinNewTokensLengthLogitsProcessor(prompt_length, params.min_tokens, stop_ids))
    if params.temperature > 0:
        found.append(hf.TemperatureLogitsWarper(params.temperature))
        if params.top_k > 0:
            found.append(hf.TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            found.append(hf.TopPLogitsWarper(params.top_p))
        if params.min_p > 0:
            found.append(hf.MinPLogitsWarper(params.min_p))
    return hf.LogitsProcessorList(found)
