"""What only the kernels have: the same bits as the torch hash, and splits that do not show."""

from __future__ import annotations

import pytest
import torch
from sampler_help import draw, state_of

from runner.engine.sampler import ROW, Variant
from runner.engine.sampler.filters import kept_floor
from runner.engine.sampler.noise import hash_bits, negative_gumbel, row_keys, token_words
from runner.types import SamplingParams

triton = pytest.importorskip("triton")
tl = triton.language

from runner.engine.sampler import triton_rows, triton_sampler  # noqa: E402
from runner.engine.sampler.torch_sampler import TorchSampler  # noqa: E402

TOKENS = 1024


@triton.jit
def noise_kernel(words_ptr, positions_ptr, bits_ptr, noise_ptr, count: tl.constexpr):
    row = tl.program_id(0)
    ids = tl.arange(0, count)
    position = tl.load(positions_ptr + row)
    key_0, key_1 = triton_rows.row_keys(words_ptr + row * triton_rows.WORDS, position)
    bits = triton_rows.hash_bits(ids, key_0, key_1)
    tl.store(bits_ptr + row * count + ids, bits)
    tl.store(noise_ptr + row * count + ids, triton_rows.negative_gumbel(bits))


def test_bits_and_noise_equal_torch(kernel_device: str) -> None:
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 0x12345678_9ABCDEF0]
    state = state_of([SamplingParams()] * len(seeds), 10, seeds=seeds, device=kernel_device)
    positions = torch.tensor([0, 1, 5, 2**31 - 1, 77, 131_071], dtype=torch.int32, device=kernel_device)
    bits = torch.empty(len(seeds), TOKENS, dtype=torch.int32, device=kernel_device)
    noise = torch.empty(len(seeds), TOKENS, device=kernel_device)
    noise_kernel[(len(seeds),)](state.words, positions, bits, noise, TOKENS)
    words = state.words[: len(seeds)].cpu()
    low, high = (words[:, triton_rows.state.FIRST_WORD[name]] for name in ("seed_lo", "seed_hi"))
    keys = row_keys(low, high, positions.cpu())
    expected = torch.empty(len(seeds), TOKENS, dtype=torch.int32)
    hash_bits(
        token_words(torch.arange(TOKENS)), keys[0][:, None], keys[1][:, None], expected, torch.empty_like(expected)
    )
    assert torch.equal(bits.cpu(), expected)
    torch.testing.assert_close(noise.cpu(), negative_gumbel(expected, torch.empty(noise.shape)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("programs", [1, 7, 10_000])
def test_pieces_do_not_show(programs: int, kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one piece a row to one a tile, with a last tile that is not full."""
    monkeypatch.setattr(triton_sampler, "PROGRAMS", programs)
    vocab = 4 * triton_sampler.CHOOSE_TILE + 17
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(1))
    tie = [5, 5 + triton_sampler.CHOOSE_TILE, vocab - 1]  # the first two meet in one lane of a program
    logits[2, tie] = 20.0
    params = [SamplingParams(temperature=0), SamplingParams(temperature=3.0), SamplingParams(temperature=0)]
    expected, _ = draw(TorchSampler(), logits, state_of(params, vocab))
    tokens, _ = draw(
        triton_sampler.TritonSampler(), logits.to(kernel_device), state_of(params, vocab, device=kernel_device)
    )
    assert tokens.tolist() == expected.tolist()
    assert tokens[2] == 5


@pytest.mark.parametrize("candidates", [1, 8, 16])
def test_floors_equal_torch(candidates: int, kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept sets that lie in the candidates, reach below them, and tie at their edge."""
    monkeypatch.setattr(triton_sampler, "GROUP", 4)
    monkeypatch.setattr(triton_sampler, "CANDIDATES", candidates)
    monkeypatch.setattr(triton_sampler, "SURVEY_TILE", 32)
    monkeypatch.setattr(triton_sampler, "FLOOR_TILE", 32)
    filters = [{"top_k": k} for k in (1, 2, 5, 30, 69)]
    filters += [{"top_p": p} for p in (0.0, 0.3, 0.7, 0.97)]
    filters += [{"top_k": 9, "top_p": 0.6}, {"top_k": 40, "top_p": 0.99, "min_p": 0.001}, {"min_p": 0.2}, {}]
    params = [SamplingParams(**one) for one in filters for _ in range(4)]
    state = state_of(params, 70, device=kernel_device)
    logits = torch.randn(len(params), 70, generator=torch.Generator().manual_seed(candidates)) * 2
    logits[1::4] = logits[1::4].round()
    logits[2::4, 10:60] = float("-inf")
    logits[3::4] = 1.0
    inputs = (logits.to(kernel_device), *(torch.arange(len(params), dtype=torch.int32, device=kernel_device),) * 2)
    floors = torch.empty(len(params), device=kernel_device)
    static = {"VOCAB": 70, "HAS_COUNTS": False, "HAS_BIAS": False}
    triton_sampler._find_floors((*inputs, *(state.words,) * 3), floors, static)
    rows = state.words.cpu().numpy().view(ROW)[:, 0]
    for row, x in enumerate(logits):
        kept = x >= floors[row].item()
        assert torch.equal(kept | x.isinf(), (x >= kept_floor(x, rows[row])) | x.isinf()), (row, params[row])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_follows_the_state() -> None:
    """A captured call reads parameters, positions and counts anew at each replay."""
    sampler, vocab = triton_sampler.TritonSampler(), 5000
    params = [SamplingParams(), SamplingParams(top_p=0.8), SamplingParams(top_k=9), SamplingParams(temperature=0)]
    state = state_of(params, vocab, device="cuda")
    logits = torch.randn(4, vocab, device="cuda")
    rows = torch.arange(4, dtype=torch.int32, device="cuda")
    positions = torch.zeros(4, dtype=torch.int32, device="cuda")
    sampler.sample(logits, rows, positions, state, Variant.PLAIN)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens, _ = sampler.sample(logits, rows, positions, state, Variant.PLAIN)
    host = state_of(params, vocab)
    for step in range(5):
        logits.normal_()
        positions.fill_(step)
        graph.replay()
        expected, _ = draw(TorchSampler(), logits.cpu(), host, step)
        assert tokens.tolist() == expected.tolist()
