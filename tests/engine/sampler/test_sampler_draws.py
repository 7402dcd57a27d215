"""What is drawn: the right distribution, whatever the batch; what is reported of stops and broken rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampler_help import draw, state_of
from sampler_stats import chi_square_z, uniform_z
from test_sampler_filters import edit
from torch import Tensor

from runner.engine.sampler import Sampler, Variant
from runner.engine.sampler.torch_sampler import TorchSampler
from runner.types import SamplingParams

NAN, INF = float("nan"), float("inf")


def many_draws(logits: Tensor, params: SamplingParams, count: int, seed: int = 5) -> np.ndarray:
    """Tokens of one sequence at ``count`` positions under the same logits [V]."""
    state = state_of([params], len(logits), seeds=[seed])
    batch = logits.expand(count, -1)
    return draw(TorchSampler(), batch, state, range(count), rows=[0] * count)[0].numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.linspace(-3, 4, 30)
    tokens = many_draws(logits, SamplingParams(temperature=temperature), 120_000)
    expected = (logits.double() / temperature).softmax(0).numpy() * len(tokens)
    assert chi_square_z(np.bincount(tokens, minlength=30), expected) < 3.5


def test_filtered_draws_follow_the_kept_softmax() -> None:
    logits = torch.linspace(-3, 4, 30)
    tokens = many_draws(logits, SamplingParams(top_k=6), 20_000)
    expected = logits[-6:].double().softmax(0).numpy() * len(tokens)
    assert tokens.min() == 24
    assert chi_square_z(np.bincount(tokens, minlength=30)[24:], expected) < 3.5


def test_rows_and_positions_are_independent() -> None:
    """Draws of 8 equal tokens: pairs of neighbouring positions, of neighbouring seeds, and of seeds' halves."""
    logits, params = torch.zeros(8), SamplingParams()
    seeds = [many_draws(logits, params, 40_000, seed) for seed in (1, 2, 1 << 32, 2 << 32, -1)]
    pairs = [(seeds[0][:-1], seeds[0][1:])]
    pairs += [(seeds[i], seeds[j]) for i in range(5) for j in range(i)]
    pairs += [(seeds[0][:-1], seeds[1][1:]), (seeds[2][1:], seeds[3][:-1])]
    for a, b in pairs:
        assert uniform_z(np.bincount(a * 8 + b, minlength=64)) < 3.7


def mixed_rows(count: int) -> list[SamplingParams]:
    kinds = [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=5, temperature=2.0),
        SamplingParams(min_tokens=100),
        SamplingParams(min_p=0.1),
    ]
    return [kinds[i % len(kinds)] for i in range(count)]


def test_a_draw_depends_on_neither_batch_nor_order(sampler: Sampler, device: str) -> None:
    count = 24
    logits = torch.randn(count, 200, generator=torch.Generator().manual_seed(1)).to(device)
    state = state_of(mixed_rows(count), 200, eos_ids=(3,), device=device)
    positions = [7 * i for i in range(count)]
    together, _ = draw(sampler, logits, state, positions)
    order = np.random.default_rng(0).permutation(count).tolist()
    shuffled, _ = draw(sampler, logits[order], state, [positions[i] for i in order], rows=order)
    assert shuffled.tolist() == together[order].tolist()
    alone = [draw(sampler, logits[i : i + 1], state, positions[i], rows=[i])[0].item() for i in range(count)]
    assert alone == together.tolist()
    full, _ = draw(sampler, logits, state, positions, variant=Variant.FULL)
    assert full.tolist() == together.tolist()


def test_both_samplers_draw_the_same(sampler: Sampler, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        logits = (torch.randn(48, 1000, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
        params = mixed_rows(48)
        expected, _ = draw(TorchSampler(), logits, state_of(params, 1000))
        got, _ = draw(sampler, logits.to(device), state_of(params, 1000, device=device))
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("variant", Variant)
def test_ties_go_to_the_lowest_id(variant: Variant, sampler: Sampler, device: str) -> None:
    logits = torch.zeros(2, 5000, device=device)
    logits[0, [4999, 2100, 77]] = 1.0
    logits[1, [4999, 4998]] = 1.0
    state = state_of([SamplingParams(temperature=0)] * 2, 5000, device=device)
    assert draw(sampler, logits, state, variant=variant)[0].tolist() == [77, 4998]


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(), SamplingParams(top_p=0.9)])
def test_a_broken_row_is_reported_and_hurts_no_other(params: SamplingParams, sampler: Sampler, device: str) -> None:
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(4))
    logits[1, 2500] = NAN
    logits[2] = NAN
    logits[3] = -INF
    logits[4, 9] = INF
    logits[5, :2999] = -INF
    state = state_of([params] * 6, 3000, device=device)
    variants = [Variant.PLAIN, Variant.FULL] + ([Variant.GREEDY] if params.temperature == 0 else [])
    for variant in variants:
        tokens, status = draw(sampler, logits.to(device), state, variant=variant)
        assert status.tolist() == [0, 2, 2, 2, 2, 0]
        assert tokens[1:].tolist() == [0, 0, 0, 0, 2999]


def test_stops_are_reported_once_they_count(sampler: Sampler, device: str) -> None:
    logits = torch.zeros(4, 100, device=device)
    logits[:, 42] = 9.0
    params = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0, ignore_eos=True),
        SamplingParams(temperature=0, ignore_eos=True, stop_token_ids=(1, 42)),
        SamplingParams(temperature=0, stop_token_ids=(41,)),
    ]
    state = state_of(params, 100, eos_ids=(42, 43), device=device)
    assert draw(sampler, logits, state)[1].tolist() == [1, 0, 1, 1]


def test_extreme_temperatures(sampler: Sampler, device: str) -> None:
    logits = torch.arange(64.0).flip(0).expand(4, -1).to(device)
    params = [SamplingParams(temperature=t) for t in (1e-9, 1e-4, 1e6, float("inf"))]
    tokens, status = draw(sampler, logits, state_of(params, 64, device=device))
    assert tokens[:2].tolist() == [0, 0]
    assert status.tolist() == [0] * 4
    assert len({tokens[2].item(), tokens[3].item()}) == 2


@pytest.mark.parametrize("penalty", [1e-6, 1e6])
@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1e6])
def test_extreme_penalties(penalty: float, temperature: float, sampler: Sampler, device: str) -> None:
    """The ends of the range that settings may take, on logits that are large themselves."""
    logits = torch.linspace(-1e4, 1e4, 64)[None].to(device)
    params = SamplingParams(temperature=temperature, repetition_penalty=penalty)
    state = state_of([params], 64, device=device)
    edit(state, 0, params, prompt=(0, 63))
    assert draw(sampler, logits, state, variant=Variant.FULL)[1].tolist() == [0]


def test_greedy_rows_ignore_filters_and_seeds(sampler: Sampler, device: str) -> None:
    logits = torch.randn(2, 500, generator=torch.Generator().manual_seed(6)).to(device)
    params = [SamplingParams(temperature=0, top_k=3, top_p=0.2, min_p=0.9), SamplingParams(temperature=0)]
    for variant in Variant:
        tokens, _ = draw(sampler, logits, state_of(params, 500, device=device), variant=variant)
        assert tokens.tolist() == logits.argmax(1).tolist()


def test_logits_are_left_alone(sampler: Sampler, device: str) -> None:
    logits = torch.randn(6, 300).to(device)
    before = logits.clone()
    draw(sampler, logits, state_of(mixed_rows(6), 300, eos_ids=(1,), device=device), variant=Variant.FULL)
    assert torch.equal(logits, before)
