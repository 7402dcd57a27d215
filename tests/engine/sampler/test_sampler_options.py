"""Every option at once: any combination gives the distribution of transformers' processors on the same logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference_sampling import processors
from sampler_help import state_of
from test_sampler_filters import all_logprobs, edit, random_logits

from runner.engine.sampler import LogprobsBuffer, Sampler, Variant, load_sampler, needs_edits
from runner.types import SamplingParams

VOCAB = 24
EOS = 3


def check(sampler: Sampler, device: str, params: SamplingParams, prompt: list[int], outputs: list[int]) -> None:
    """In one batch with a row that asks for nothing."""
    logits = random_logits(2, vocab=VOCAB, seed=len(prompt) + 7 * len(outputs))
    state = state_of([params, SamplingParams()], VOCAB, eos_ids=(EOS,), prompt_len=len(prompt), device=device)
    if needs_edits(params):
        edit(state, 0, params, tuple(prompt), tuple(outputs))
    got = all_logprobs(sampler, logits, state, device, position=len(prompt) + len(outputs))
    expected = processors(params, len(prompt), (EOS,))(torch.tensor([prompt + outputs]), logits[:1].clone())
    torch.testing.assert_close(got[0], expected.log_softmax(1)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], logits[1].log_softmax(0), rtol=1e-4, atol=1e-4)


TOKEN = st.integers(0, VOCAB - 1)
FEW = st.integers(5, 8)  # tokens that come again
OPTIONS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.7]),
    top_k=st.sampled_from([0, -1, 4, 12]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.03]),
    min_tokens=st.integers(0, 4),
    ignore_eos=st.booleans(),
    stop_token_ids=st.lists(TOKEN, max_size=3).map(tuple),
    repetition_penalty=st.sampled_from([1.0, 0.8, 1.4]),
    presence_penalty=st.sampled_from([0.0, -0.5, 1.1]),
    frequency_penalty=st.sampled_from([0.0, -0.2, 0.6]),
    logit_bias=st.dictionaries(TOKEN, st.sampled_from([-100.0, -1.5, 2.0]), max_size=3).map(lambda d: tuple(d.items())),
    bad_words=st.lists(st.lists(FEW, min_size=1, max_size=3).map(tuple), max_size=3, unique=True).map(tuple),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(params=OPTIONS, prompt=st.lists(FEW, min_size=1, max_size=5), outputs=st.lists(FEW, max_size=5))
def test_any_combination_equals_transformers(
    device: str, params: SamplingParams, prompt: list[int], outputs: list[int]
) -> None:
    """With the sampler that the engine has on that device."""
    # Some releases of transformers skip a word that is longer than all there is; test_sampler_phrases has those.
    assume(all(len(word) <= len(prompt) + len(outputs) for word in params.bad_words))
    check(load_sampler(torch.device(device)), device, params, prompt, outputs)


COMBINED = {
    "greedy": SamplingParams(
        temperature=0.0,
        repetition_penalty=1.4,
        presence_penalty=0.5,
        frequency_penalty=-0.2,
        logit_bias=((7, 2.0), (9, -100.0)),
        bad_words=((6, 5), (5, 7), (8,)),
        min_tokens=4,
        stop_token_ids=(11,),
    ),
    "drawn": SamplingParams(
        temperature=0.7,
        top_k=12,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=0.8,
        frequency_penalty=0.6,
        logit_bias=((7, 2.0),),
        bad_words=((6, 5, 7), (5, 12)),
        min_tokens=4,
        ignore_eos=True,
        stop_token_ids=(11, 2),
    ),
}


@pytest.mark.parametrize("name", COMBINED)
def test_options_together_equal_transformers(name: str, sampler: Sampler, device: str) -> None:
    for outputs in ([], [6, 5], [7, 7, 8, 6, 5]):
        check(sampler, device, COMBINED[name], [5, 6, 6], outputs)


def test_a_longer_list_of_the_best_begins_like_a_shorter(sampler: Sampler, device: str) -> None:
    """Rows of one step may ask for different numbers, and equal logits are common in bfloat16."""
    logits = random_logits(2, vocab=VOCAB).round().to(device)
    state = state_of([SamplingParams(), SamplingParams(top_k=9)], VOCAB, device=device)
    rows, place = torch.arange(2, dtype=torch.int32, device=device), torch.zeros(2, dtype=torch.int32, device=device)
    buffers = {count: LogprobsBuffer.empty(2, count, device) for count in (0, 1, 2, 5, 20)}
    for buffer in buffers.values():
        sampler.sample(logits, rows, place, state, Variant.FULL, buffer)
    for count, buffer in buffers.items():
        assert buffer.token_ids.tolist() == buffers[20].token_ids[:, :count].tolist()
        assert torch.equal(buffer.logprobs, buffers[20].logprobs[:, :count])
        assert torch.equal(buffer.sampled, buffers[20].sampled)
    for row, ids in enumerate(buffers[20].token_ids.tolist()):
        ids = [token for token in ids if token >= 0]
        assert ids == sorted(ids, key=lambda token, row=row: (-float(logits[row, token]), token))
