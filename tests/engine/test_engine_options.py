"""Sampling options through the whole engine, against a plain loop over the model and transformers' processors."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from reference_sampling import processors, stop_ids_of
from test_engine_exact import make_core, prompts_of
from tiny_models import EOS_TOKEN_ID, tiny_model

from runner.limits import MAX_STOP_IDS
from runner.types import EngineRequest, FinishReason, Sample, SamplingParams

EOS = (EOS_TOKEN_ID,)
MODES: dict[str, dict[str, Any]] = {
    "async": {},
    "sync": {"async_batching": False},
    "preempted": {"block_size": 4, "num_kv_blocks": 26, "max_model_len": 100},
    "prompts beside rows": {"overlap_prefill": True, "max_num_batched_tokens": 17},
}


@cache
def expected(prompt: tuple[int, ...], params: SamplingParams) -> list[int]:
    """Greedy, one forward of the whole sequence a token."""
    model, ids = tiny_model("llama"), list(prompt)
    steps = processors(params, len(prompt), EOS)
    while len(ids) < len(prompt) + params.max_tokens:
        history = torch.tensor([ids])
        with torch.inference_mode():
            scores = model(input_ids=history).logits[:, -1]
        ids.append(int(steps(history, scores).argmax()))
        if ids[-1] in stop_ids_of(params, EOS):
            break
    return ids[len(prompt) :]


PROMPTS = [tuple(prompt) for prompt in prompts_of(21, 8, longest=14)]


def kinds() -> list[SamplingParams]:
    """One row for each option, with values that change its answer; they run beside one another."""
    plain = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    answers = [expected(prompt, plain) for prompt in PROMPTS]
    common = {"temperature": 0.0, "max_tokens": 30}
    return [
        plain,
        SamplingParams(**common, stop_token_ids=(answers[1][6], answers[1][9])),
        SamplingParams(**common, stop_token_ids=(answers[2][1], answers[2][4]), min_tokens=8),
        SamplingParams(**common, ignore_eos=True, repetition_penalty=1.5),
        SamplingParams(**common, ignore_eos=True, presence_penalty=1.5, frequency_penalty=0.4),
        SamplingParams(**common, ignore_eos=True, logit_bias=((answers[5][0], -100.0), (answers[5][3], 1.0))),
        SamplingParams(**common, ignore_eos=True, bad_words=(tuple(answers[6][2:4]), tuple(answers[6][7:10]))),
        SamplingParams(**common, logit_bias=((EOS_TOKEN_ID, 6.0),), min_tokens=3),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_every_option_is_honoured_in_every_mode(mode: str) -> None:
    params = kinds()
    core = make_core("llama", **MODES[mode])
    core.add([EngineRequest(i, list(prompt), params[i], (i,)) for i, prompt in enumerate(PROMPTS)])
    samples: dict[int, Sample] = {}
    while core.has_work:
        samples |= {sample.request_id: sample for sample in core.step()}
    core.check_drained()
    for i, prompt in enumerate(PROMPTS):
        answer = expected(prompt, params[i])
        assert samples[i].token_ids == answer, i
        stopped = answer[-1] in stop_ids_of(params[i], EOS)
        assert samples[i].finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
        assert samples[i].stop_reason == (answer[-1] if stopped else None)
        if i:
            assert answer != expected(prompt, params[0])
    assert bool(core.stats().preemptions) == (mode == "preempted")


def test_a_fixed_seed_repeats_and_the_samples_of_a_prompt_differ() -> None:
    params = SamplingParams(max_tokens=20, temperature=1.0, n=3, ignore_eos=True)
    request = EngineRequest(0, list(PROMPTS[0]), params, (5, 6, 5), (0, 1, 2))
    core = make_core("llama")
    core.add([request])
    answers = {}
    while core.has_work:
        answers |= {sample.sample_index: sample.token_ids for sample in core.step()}
    assert answers[0] == answers[2] != answers[1]


def test_a_row_with_more_stop_ids_than_fit_is_refused_and_hurts_no_other() -> None:
    core = make_core("llama")
    ids = tuple(range(100, 100 + MAX_STOP_IDS))
    common = {"temperature": 0.0, "max_tokens": 4}
    (refused,) = core.add(
        [
            EngineRequest(0, [5, 6], SamplingParams(**common, stop_token_ids=ids), (0,)),
            EngineRequest(1, [5, 6], SamplingParams(**common, stop_token_ids=ids, ignore_eos=True), (0,)),
        ]
    )
    assert (refused.request_id, refused.finish_reason) == (0, FinishReason.ERROR)
    assert "sampling.stop_token_ids" in str(refused.error)
    samples = []
    while core.has_work:
        samples += core.step()
    assert [sample.request_id for sample in samples] == [1]
