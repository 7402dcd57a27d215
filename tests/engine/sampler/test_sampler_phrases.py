"""Bad words of several tokens against transformers' processor, step by step on the same history."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampler_help import draw, state_of
from test_sampler_filters import all_logprobs, edit, random_logits
from torch import Tensor
from transformers.generation import logits_process as hf

from runner.engine.sampler import Sampler, SamplingState, Variant, load_sampler
from runner.engine.sampler.torch_sampler import TorchSampler
from runner.limits import MAX_BAD_PHRASES, MAX_PHRASE_TOKENS
from runner.types import SamplingParams

VOCAB = 12
INF = float("inf")


def banned_by_transformers(history: Sequence[int], phrases: Sequence[Sequence[int]]) -> list[int]:
    """What may not follow ``history``. Some releases skip a phrase that the history is the start of: a pad helps."""
    fitting = [list(phrase) for phrase in phrases if len(phrase) - 1 <= len(history)]
    if not fitting:
        return []
    padded = torch.tensor([[VOCAB, *history]])  # an id that no phrase has
    scores = hf.NoBadWordsLogitsProcessor(fitting)(padded, torch.zeros(1, VOCAB))
    return scores[0].isinf().nonzero()[:, 0].tolist()


def banned(state: SamplingState, slot: int, vocab: int = VOCAB) -> list[int]:
    """What the next draw of a slot may not be."""
    state.ban(torch.tensor([slot], dtype=torch.int32))
    bias = state.edits.bias
    assert bias is not None
    return (bias[state.edit_row[slot]] == -INF).nonzero()[:, 0].tolist()


TOKENS = st.integers(0, 3)  # few, so that phrases often match
PHRASES = st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=6, unique_by=tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_each_step_bans_what_transformers_bans(device: str, data: st.DataObject) -> None:
    """Three slots with phrases, one with a penalty alone, one with nothing; all in one batch; a readmission between."""
    params = [SamplingParams(temperature=1.0, bad_words=tuple(map(tuple, data.draw(PHRASES)))) for _ in range(3)]
    params += [SamplingParams(frequency_penalty=1.0), SamplingParams()]
    histories = [data.draw(st.lists(TOKENS, max_size=6)) for _ in params]
    sampler = load_sampler(torch.device(device))
    state = state_of(params, VOCAB, seeds=[data.draw(st.integers(0, 99)) for _ in params], device=device)
    for slot in range(4):
        edit(state, slot, params[slot], tuple(histories[slot]))
    logits = torch.full((5, VOCAB), -4.0, device=device)
    logits[:, :4] = 0.0
    for step in range(6):
        expected = [banned_by_transformers(histories[i], params[i].bad_words) for i in range(3)]
        tokens, status = draw(sampler, logits, state, 50 + step, variant=Variant.FULL)
        assert not (status == 2).any()
        for slot, token in enumerate(tokens.tolist()):
            if slot < 3:
                found = (state.edits.bias[state.edit_row[slot]] == -INF).nonzero()[:, 0].tolist()
                assert found == expected[slot]
                assert token not in found
            histories[slot].append(token)
        if step == 2:  # as after a preemption
            slot = data.draw(st.integers(0, 2))
            state.retire(slot)
            edit(state, slot, params[slot], tuple(histories[slot][:2]), tuple(histories[slot][2:]))


def test_the_distribution_is_that_of_transformers(sampler: Sampler, device: str) -> None:
    """Phrases beside penalties, bias, temperature and filters, in one batch with rows that have none."""
    phrases = ((1, 2, 3), (2, 3), (9, 3), (2, 5), (8,), (3, 2, 7))
    prompt, outputs = (4, 1), (1, 2)
    params = SamplingParams(
        temperature=0.8, top_p=0.95, repetition_penalty=1.3, logit_bias=((5, 1.0), (3, 2.0)), bad_words=phrases
    )
    logits = random_logits(3, vocab=VOCAB)
    state = state_of([SamplingParams(), params, SamplingParams(temperature=0.0)], VOCAB, device=device)
    edit(state, 1, params, prompt, outputs)
    got = all_logprobs(sampler, logits, state, device, position=4)
    history = torch.tensor([prompt + outputs])
    x = logits[1:2].clone()
    x[0, 5] += 1.0
    x[0, 3] += 2.0
    x = hf.RepetitionPenaltyLogitsProcessor(1.3)(history, x)
    x = hf.NoBadWordsLogitsProcessor([list(phrase) for phrase in phrases])(history, x)
    assert x[0].isinf().nonzero()[:, 0].tolist() == [3, 5, 8]
    x = hf.TopPLogitsWarper(0.95)(history, hf.TemperatureLogitsWarper(0.8)(history, x))
    torch.testing.assert_close(got[1], x.log_softmax(1)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[0], logits[0].log_softmax(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[2], logits[2].log_softmax(0), rtol=1e-4, atol=1e-4)


def test_greedy_decoding_walks_around_the_phrase(sampler: Sampler, device: str) -> None:
    """5 is the best token and may never follow itself twice; what was sampled decides, without the host."""
    params = SamplingParams(temperature=0.0, bad_words=((5, 5, 5),))
    state = state_of([params, SamplingParams(temperature=0.0)], VOCAB, device=device)
    edit(state, 0, params, prompt=(0, 5))
    logits = torch.zeros(2, VOCAB, device=device)
    logits[:, 5], logits[:, 4] = 2.0, 1.0
    steps = [draw(sampler, logits, state, step, variant=Variant.FULL)[0].tolist() for step in range(6)]
    assert [one for one, _ in steps] == [5, 4, 5, 5, 4, 5]
    assert [one for _, one in steps] == [5] * 6


def test_a_ban_ends_and_the_bias_is_what_it_was() -> None:
    params = SamplingParams(bad_words=((1, 2), (3, 2)), logit_bias=((2, -1.5),))
    state = state_of([params], VOCAB)
    edit(state, 0, params, prompt=(1,))
    row = state.edit_row[0]
    assert banned(state, 0) == [2]
    state.follow(torch.tensor([0], dtype=torch.int32), torch.tensor([3], dtype=torch.int32))
    assert banned(state, 0) == [2]  # the other phrase of the two
    state.follow(torch.tensor([0], dtype=torch.int32), torch.tensor([9], dtype=torch.int32))
    assert banned(state, 0) == []
    assert state.edits.bias[row].tolist() == [0, 0, -1.5] + [0] * (VOCAB - 3)


def test_the_longest_phrases_and_as_many_as_fit() -> None:
    longest = tuple(range(MAX_PHRASE_TOKENS))
    many = tuple((100 + i, 200 + i % 7) for i in range(MAX_BAD_PHRASES - 1))
    params = SamplingParams(bad_words=(*many, longest))
    state = state_of([params], 500)
    edit(state, 0, params, prompt=longest[:-1])
    assert banned(state, 0) == [longest[-1]]
    edit(state, 0, params, prompt=(99, *longest[1:-1]))
    assert banned(state, 0) == []
    edit(state, 0, params, prompt=(7, 100 + MAX_BAD_PHRASES - 2))
    assert banned(state, 0) == [200 + (MAX_BAD_PHRASES - 2) % 7]


def test_rows_keep_their_phrases_when_the_pool_grows_and_lose_them_when_reused() -> None:
    params = SamplingParams(bad_words=((1, 2),))
    state = state_of([params] * 20, VOCAB)
    edit(state, 0, params, prompt=(1,))
    for slot in range(1, 15):
        edit(state, slot, SamplingParams(logit_bias=((0, 1.0), (2, 3.0))))
    assert banned(state, 0) == [2]
    assert banned(state, 3) == []
    assert state.edits.bias[state.edit_row[3], [0, 2]].tolist() == [1.0, 3.0]
    state.retire(0)
    assert not state.edits.has_phrases
    edit(state, 0, SamplingParams(logit_bias=((2, 3.0),)), prompt=(1,))
    edit(state, 5, params, prompt=(7,))
    assert banned(state, 0) == []
    assert state.edits.bias[state.edit_row[0], 2] == 3.0


@pytest.mark.parametrize("asked", [False, True])
def test_rows_without_phrases_pay_nothing(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    params = SamplingParams(bad_words=((1, 2),) if asked else (), frequency_penalty=1.0)
    state = state_of([params], VOCAB)
    edit(state, 0, params)
    monkeypatch.setattr(state.edits, "ban", calls.append)
    draw(TorchSampler(), torch.zeros(1, VOCAB), state, variant=Variant.FULL)
    assert len(calls) == asked
