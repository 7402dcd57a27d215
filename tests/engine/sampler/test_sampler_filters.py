"""Edits and filters against transformers' logits processors and float64 references.

What a sampler may draw is read from its log-probabilities: -inf outside of the kept set.
"""

from __future__ import annotations

import pytest
import torch
from sampler_help import draw, state_of
from torch import Tensor
from transformers.generation import logits_process as hf

from runner.engine.sampler import LogprobsBuffer, Sampler, SamplingState, Variant, bias_entries
from runner.types import SamplingParams

VOCAB = 40
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_logits(rows: int, dtype: torch.dtype = torch.float32, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    return (torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 4).to(dtype)


def all_logprobs(sampler: Sampler, logits: Tensor, state: SamplingState, device: str, position: int = 0) -> Tensor:
    """Log-probabilities [B, V] of the distribution sampled from, each row unscrambled by token id."""
    count, vocab = logits.shape
    buffer = LogprobsBuffer.empty(count, vocab, device)
    tokens, status = draw(sampler, logits.to(device), state, position, variant=Variant.FULL, logprobs=buffer)
    assert not (status == 2).any()
    ids, values = buffer.token_ids.cpu().long(), buffer.logprobs.cpu()
    assert (values.diff(dim=1) <= 0)[values[:, 1:].isfinite()].all()
    assert ((ids < 0) == values.isinf()).all()
    dense = torch.full((count, vocab + 1), float("-inf")).scatter(1, ids.where(ids >= 0, vocab), values)[:, :vocab]
    torch.testing.assert_close(dense.gather(1, tokens.long()[:, None])[:, 0], buffer.sampled.cpu())
    return dense


def transformed(logits: Tensor, params: SamplingParams) -> Tensor:
    """What transformers makes of the logits: log-probabilities [B, V]."""
    none = torch.zeros(len(logits), 0, dtype=torch.long)
    scores = hf.TemperatureLogitsWarper(params.temperature)(none, logits.float())
    if params.top_k > 0:
        scores = hf.TopKLogitsWarper(params.top_k)(none, scores)
    if params.top_p < 1:
        scores = hf.TopPLogitsWarper(params.top_p)(none, scores)
    if params.min_p > 0:
        scores = hf.MinPLogitsWarper(params.min_p)(none, scores)
    return scores.log_softmax(1)


FILTERS = {
    "temperature": SamplingParams(temperature=0.7),
    "hot": SamplingParams(temperature=50.0),
    "top_k": SamplingParams(top_k=7, temperature=1.3),
    "top_k 1": SamplingParams(top_k=1),
    "top_k all": SamplingParams(top_k=VOCAB),
    "top_k above all": SamplingParams(top_k=10 * VOCAB),
    "top_k off": SamplingParams(top_k=-1),
    "top_p": SamplingParams(top_p=0.8),
    "top_p almost all": SamplingParams(top_p=0.999, temperature=2.0),
    "top_p none": SamplingParams(top_p=0.0),
    "min_p": SamplingParams(min_p=0.05, temperature=1.5),
    "min_p 1": SamplingParams(min_p=1.0),
    "all": SamplingParams(top_k=20, top_p=0.9, min_p=0.02, temperature=1.7),
    "k then p": SamplingParams(top_k=5, top_p=0.6, temperature=3.0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_equal_transformers(name: str, sampler: Sampler, device: str) -> None:
    params = FILTERS[name]
    logits = random_logits(4, seed=len(name))
    got = all_logprobs(sampler, logits, state_of([params] * 4, VOCAB, device=device), device)
    torch.testing.assert_close(got, transformed(logits, params), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_their_own_filters_in_any_dtype(dtype: torch.dtype, sampler: Sampler, device: str) -> None:
    rows = list(FILTERS.values())
    # Distinct multiples of 1/32 are exact in bf16 up to 8: transformers breaks ties by the order of its sort, we keep
    # them all.
    generator = torch.Generator().manual_seed(3)
    logits = torch.stack([torch.randperm(VOCAB, generator=generator) for _ in rows]).sub(20).div(32).to(dtype)
    got = all_logprobs(sampler, logits, state_of(rows, VOCAB, device=device), device)
    for row, params in enumerate(rows):
        expected = transformed(logits[row : row + 1], params)[0]
        torch.testing.assert_close(got[row], expected, rtol=1e-4, atol=1e-4, msg=str(params))


def test_ties_at_the_edge_are_all_kept(sampler: Sampler, device: str) -> None:
    logits = torch.full((3, 40), -3.0)
    logits[:, 10:15] = 2.0
    params = [SamplingParams(top_k=2), SamplingParams(top_p=0.3), SamplingParams(min_p=1.0)]
    got = all_logprobs(sampler, logits, state_of(params, 40, device=device), device)
    assert got.isfinite().nonzero()[:, 1].tolist() == [10, 11, 12, 13, 14] * 3


def test_filters_see_edited_logits_with_banned_tokens(sampler: Sampler, device: str) -> None:
    logits = random_logits(1)
    best = logits[0].topk(3).indices.tolist()
    params = SamplingParams(top_k=2, logit_bias=((best[0], -100.0),))
    state = state_of([params], VOCAB, device=device)
    edit(state, 0, params, bad=(best[1],))
    got = all_logprobs(sampler, logits, state, device)
    edited = logits.clone()
    edited[0, best[0]] -= 100
    edited[0, best[1]] = float("-inf")
    torch.testing.assert_close(got, transformed(edited, params), rtol=1e-4, atol=1e-4)


def edit(
    state: SamplingState,
    slot: int,
    params: SamplingParams,
    prompt: tuple[int, ...] = (),
    outputs: tuple[int, ...] = (),
    bad: tuple[int, ...] = (),
) -> None:
    device = state.words.device
    ids = [torch.tensor(part, dtype=torch.int32, device=device) for part in (prompt, outputs)]
    state.load_edits(slot, params, *ids, bias_entries(params, bad))


@pytest.mark.parametrize("dtype", DTYPES)
def test_repetition_penalty_equals_transformers(dtype: torch.dtype, sampler: Sampler, device: str) -> None:
    logits = random_logits(2, dtype)
    params = SamplingParams(repetition_penalty=1.7)
    state = state_of([params] * 2, VOCAB, device=device)
    histories = (((1, 5, 5, 9), (7, 5)), ((39,), ()))
    for slot, (prompt, outputs) in enumerate(histories):
        edit(state, slot, params, prompt, outputs)
    got = all_logprobs(sampler, logits, state, device)
    for slot, (prompt, outputs) in enumerate(histories):
        history = torch.tensor([prompt + outputs])
        expected = hf.RepetitionPenaltyLogitsProcessor(1.7)(history, logits[slot : slot + 1].float())
        torch.testing.assert_close(got[slot], expected.log_softmax(1)[0], rtol=1e-4, atol=1e-4)


def test_penalties_and_bias_equal_a_float64_reference(sampler: Sampler, device: str) -> None:
    logits = random_logits(2)
    params = SamplingParams(
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=-0.3,
        temperature=0.8,
        logit_bias=((3, 2.5), (8, -1.0)),
    )
    state = state_of([params, SamplingParams()], VOCAB, device=device)
    prompt, outputs = (3, 4, 4, 30), (4, 8, 8, 8, 35)
    edit(state, 0, params, prompt, outputs)
    got = all_logprobs(sampler, logits, state, device)
    x = logits[0].double()
    x[3] += 2.5
    x[8] -= 1.0
    for token in {*prompt, *outputs}:
        x[token] = x[token] / 1.2 if x[token] > 0 else x[token] * 1.2
        x[token] -= 0.5 * (token in outputs) - 0.3 * outputs.count(token)
    torch.testing.assert_close(got[0].double(), (x / 0.8).log_softmax(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], logits[1].log_softmax(0), rtol=1e-4, atol=1e-4)


def test_sampled_tokens_are_counted(sampler: Sampler, device: str) -> None:
    """A frequency penalty larger than the spread makes greedy decoding visit every token once, then again."""
    params = SamplingParams(temperature=0.0, frequency_penalty=100.0)
    state = state_of([params, params], 6, device=device)
    edit(state, 0, params, prompt=(2, 3))
    edit(state, 1, params, prompt=(2, 3), outputs=(5,))
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5]] * 2, device=device)
    taken = [draw(sampler, logits, state, step, variant=Variant.FULL)[0].tolist() for step in range(7)]
    assert [one for one, _ in taken] == [5, 4, 3, 2, 1, 0, 5]
    assert [one for _, one in taken] == [4, 3, 2, 1, 0, 5, 4]


def test_readmission_rebuilds_the_counts(sampler: Sampler, device: str) -> None:
    params = SamplingParams(temperature=0.0, frequency_penalty=1.5, repetition_penalty=1.1)
    logits = random_logits(1, vocab=50).to(device)
    steady = state_of([params], 50, device=device)
    edit(steady, 0, params, prompt=(1, 2))
    tokens = [draw(sampler, logits, steady, i, variant=Variant.FULL)[0].item() for i in range(12)]
    again = state_of([params], 50, device=device)
    edit(again, 0, params, prompt=(9, 9), outputs=(4, 4, 4))
    again.retire(0)
    edit(again, 0, params, prompt=(1, 2), outputs=tuple(tokens[:6]))
    assert [draw(sampler, logits, again, i, variant=Variant.FULL)[0].item() for i in range(6)] == tokens[6:]


def test_min_tokens_equals_transformers(sampler: Sampler, device: str) -> None:
    params = SamplingParams(temperature=0.0, min_tokens=3, stop_token_ids=(11,))
    logits = random_logits(1)
    logits[0, [11, 12]] = torch.tensor([50.0, 40.0])
    state = state_of([params], VOCAB, eos_ids=(12,), prompt_len=5, device=device)
    for position in range(5, 10):
        minimum = hf.MinNewTokensLengthLogitsProcessor(5, 3, [11, 12])
        expected = int(minimum(torch.zeros(1, position, dtype=torch.long), logits.clone()).argmax())
        for variant in Variant:
            buffer = LogprobsBuffer.empty(1, 1, device) if variant is Variant.FULL else None
            tokens, status = draw(sampler, logits.to(device), state, position, variant=variant, logprobs=buffer)
            assert tokens.item() == expected
            assert status.item() == (1 if position >= 8 else 0)


def test_greedy_logprobs_are_those_of_temperature_one(sampler: Sampler, device: str) -> None:
    logits = random_logits(1)
    got = all_logprobs(
        sampler, logits, state_of([SamplingParams(temperature=0, top_k=3)], VOCAB, device=device), device
    )
    torch.testing.assert_close(got, logits.log_softmax(1), rtol=1e-4, atol=1e-4)
