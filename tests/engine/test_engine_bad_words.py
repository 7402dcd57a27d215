"""Bad words of several tokens against ``generate``, however the work is batched."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine_exact import finish, make_core, make_cuda_core, prompts_of
from test_engine_logprobs import MODES, samples_of
from tiny_models import EOS_TOKEN_ID, tiny_model

from runner.types import EngineRequest, SamplingParams


def generated(prompt: list[int], bad_words: tuple[tuple[int, ...], ...] = ()) -> list[int]:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    extra = {"bad_words_ids": [list(phrase) for phrase in bad_words]} if bad_words else {}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=0,
        **extra,
    )
    return out[0, len(prompt) :].tolist()


@cache
def phrases_against(prompt: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Pieces of the answers that a prompt gets without them, so that one of them is in the way at almost any place."""
    phrases: tuple[tuple[int, ...], ...] = ()
    for _ in range(4):
        answer = generated(list(prompt), phrases)
        phrases += ((*prompt[-2:], answer[0]), *(tuple(answer[at : at + 2 + at % 2]) for at in range(0, 22, 2)))
        phrases = tuple(phrase for phrase in dict.fromkeys(phrases) if len(phrase) > 1)
    return phrases


@pytest.mark.parametrize("mode", MODES)
def test_bad_words_equal_generate_in_every_mode(mode: str) -> None:
    prompts = [prompt for prompt in prompts_of(11, 14, longest=20) if len(prompt) > 6][:7]
    plain = [generated(prompt) for prompt in prompts]
    phrases = [phrases_against(tuple(prompt)) for prompt in prompts]
    requests = [
        EngineRequest(i, prompt, SamplingParams(temperature=0.0, max_tokens=24, bad_words=phrases[i] * (i != 3)), (0,))
        for i, prompt in enumerate(prompts)
    ]
    core = make_core("llama", **MODES[mode])
    core.add(requests)
    answers = finish(core)
    for i, prompt in enumerate(prompts):
        assert answers[i, 0] == (plain[3] if i == 3 else generated(prompt, phrases[i]))
        assert i == 3 or answers[i, 0] != plain[i]
    assert bool(core.stats().preemptions) == mode.startswith("preempted")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawn_answers_never_hold_a_bad_word(data: st.DataObject) -> None:
    """What was drawn without bad words is banned, again and again, whatever the engine does meanwhile."""
    blocks = data.draw(st.sampled_from([26, 200]))
    core = make_core(
        "llama",
        block_size=4,
        num_kv_blocks=blocks,
        max_model_len=100,
        async_batching=data.draw(st.booleans()),
        overlap_prefill=data.draw(st.booleans()),
        max_num_seqs=data.draw(st.integers(1, 6)),
    )
    prompts = prompts_of(data.draw(st.integers(0, 3)), 5, longest=12)
    bad: list[tuple[tuple[int, ...], ...]] = [()] * len(prompts)
    for _ in range(3):
        params = [SamplingParams(temperature=0.3, max_tokens=30, bad_words=phrases, ignore_eos=True) for phrases in bad]
        requests = [EngineRequest(i, p, params[i], (i,)) for i, p in enumerate(prompts)]
        answers = {key[0]: s.token_ids for key, s in samples_of(core, requests).items()}
        for i, answer in answers.items():
            for phrase in bad[i]:
                places = range(len(answer) - len(phrase) + 1)
                assert all(tuple(answer[at : at + len(phrase)]) != phrase for at in places)
            at = data.draw(st.integers(0, 25))
            bad[i] = (*bad[i], tuple(answer[at : at + data.draw(st.integers(2, 4))]))


@pytest.mark.gpu
def test_the_gpu_keeps_out_the_same_bad_words() -> None:
    prompts = [prompt for prompt in prompts_of(7, 10, longest=20) if len(prompt) > 6]
    phrases = [phrases_against(tuple(prompt)) for prompt in prompts]
    core = make_cuda_core("llama")
    core.add(
        [
            EngineRequest(i, prompt, SamplingParams(temperature=0.0, max_tokens=24, bad_words=phrases[i]), (0,))
            for i, prompt in enumerate(prompts)
        ]
    )
    assert finish(core) == {(i, 0): generated(prompt, phrases[i]) for i, prompt in enumerate(prompts)}
