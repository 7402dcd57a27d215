"""Token for token what transformers' ``generate`` gives, for every family, however the work is batched."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import EOS_TOKEN_ID, families, tiny_model
from transformers import PreTrainedModel

from runner.config import EngineConfig
from runner.engine.build import core_over
from runner.engine.core import EngineCore
from runner.engine.device import CpuDevice, CudaDevice
from runner.errors import ConfigError
from runner.types import EngineRequest, FinishReason, SamplingParams

MAX_TOKENS = 24


def prompts_of(seed: int, count: int, longest: int = 60) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 250, rng.integers(1, longest)).tolist() for _ in range(count)]


@cache
def reference_model(family: str) -> PreTrainedModel:
    model = tiny_model(family)
    model.set_attn_implementation("eager")  # transformers' sdpa drops soft caps without a word
    return model


@cache
def expected_answer(family: str, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    out = reference_model(family).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


def make_core(family: str, **engine: object) -> EngineCore:
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 256, "num_kv_blocks": 64, "max_model_len": 128}
    config = EngineConfig(**{**defaults, **engine})
    return core_over(tiny_model(family), config, CpuDevice(), eos_ids=(EOS_TOKEN_ID,), context=512)


def make_cuda_core(family: str, dtype: torch.dtype = torch.float32, **engine: object) -> EngineCore:
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 256, "num_kv_blocks": 64, "max_model_len": 128}
    config = EngineConfig(**{**defaults, "compile": False, **engine})
    model = tiny_model(family).to("cuda", dtype)
    return core_over(model, config, CudaDevice(), eos_ids=(EOS_TOKEN_ID,), context=512)


def requests_for(prompts: list[list[int]], max_tokens: int = MAX_TOKENS) -> list[EngineRequest]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return [EngineRequest(i, prompt, params, seeds=(i,)) for i, prompt in enumerate(prompts)]


def finish(core: EngineCore) -> dict[tuple[int, int], list[int]]:
    answers = {}
    while core.has_work:
        for sample in core.step():
            assert sample.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), sample
            answers[sample.request_id, sample.sample_index] = sample.token_ids
    core.check_drained()
    return answers


@pytest.mark.parametrize("async_batching", [True, False])
@pytest.mark.parametrize("family", families())
def test_every_family_equals_generate(family: str, async_batching: bool) -> None:
    prompts = prompts_of(1, 10)
    core = make_core(family, async_batching=async_batching)
    core.add(requests_for(prompts))
    answers = finish(core)
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), prompt


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_batching_equals_generate(data: st.DataObject) -> None:
    """Draws configuration and arrivals: chunked prefill, preemption, prefix hits, both loops."""
    family = data.draw(st.sampled_from(families()))
    block_size = data.draw(st.sampled_from([1, 2, 4, 16, 32]))
    fewest = -(-128 // block_size)
    core = make_core(
        family,
        max_num_seqs=data.draw(st.integers(1, 9)),
        max_num_batched_tokens=data.draw(st.sampled_from([5, 16, 33, 256])),
        block_size=block_size,
        num_kv_blocks=data.draw(st.integers(fewest, 3 * fewest)),
        async_batching=data.draw(st.booleans()),
        overlap_prefill=data.draw(st.booleans()),
        enable_prefix_caching=data.draw(st.booleans()),
        deterministic=data.draw(st.booleans()),
    )
    prompts = prompts_of(data.draw(st.integers(0, 3)), 10)
    shared = prompts[0][:20]
    prompts = [shared + p if data.draw(st.booleans()) else p for p in prompts]
    waiting, answers = requests_for(prompts), {}
    while waiting:
        burst = data.draw(st.integers(1, 4))
        core.add(waiting[:burst])
        waiting = waiting[burst:]
        for _ in range(data.draw(st.integers(0, 6))):
            answers |= {(s.request_id, s.sample_index): s.token_ids for s in core.step()}
    answers |= finish(core)
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), (family, prompt)


def sampled(order: list[int], prompts: list[list[int]], n: int = 1, **engine: object) -> dict:
    core = make_core("llama", **engine)
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.8, top_p=0.95, n=n)
    core.add(
        [EngineRequest(i, prompts[i], params, tuple(100 * i + k for k in range(n)), tuple(range(n))) for i in order]
    )
    return finish(core)


def test_a_row_draws_the_same_whatever_its_batch_order_or_engine() -> None:
    prompts = prompts_of(5, 12)
    first = sampled(list(range(12)), prompts, n=2)
    again = sampled(list(reversed(range(12))), prompts, n=2, max_num_seqs=3, async_batching=False, block_size=4)
    alone = sampled([7], prompts, n=2, max_num_seqs=1)
    assert first == again
    assert alone == {key: value for key, value in first.items() if key[0] == 7}
    assert any(first[i, 0] != first[i, 1] for i in range(12))


def test_penalties_follow_the_sequence_through_preemption() -> None:
    """A preempted sequence rebuilds its counts; with them it draws what it would have drawn."""
    prompts = prompts_of(6, 4, longest=10)
    params = SamplingParams(max_tokens=40, temperature=0.7, frequency_penalty=0.5, repetition_penalty=1.2)
    answers = []
    for num_kv_blocks in (200, 20):
        core = make_core("llama", block_size=4, num_kv_blocks=num_kv_blocks, max_model_len=80)
        core.add([EngineRequest(i, p, params, seeds=(i,)) for i, p in enumerate(prompts)])
        answers.append(finish(core))
        assert (core.stats().preemptions > 0) == (num_kv_blocks == 20)
    assert answers[0] == answers[1]


def step_sizes(**engine: object) -> tuple[set[int], set[int]]:
    """The numbers of tokens of all decode steps, and of prefill steps beyond one prompt."""
    model, sizes = tiny_model("llama"), []
    model.register_forward_pre_hook(lambda _, __, kwargs: sizes.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    config = EngineConfig(max_num_seqs=6, max_num_batched_tokens=64, num_kv_blocks=96, max_model_len=128, **engine)
    core = core_over(model, config, CpuDevice(), (EOS_TOKEN_ID,), context=512)
    sizes.clear()
    prompts = [[7] * length for length in range(31, 45)]
    core.add(requests_for(prompts))
    finish(core)
    return {size for size in sizes if size < 31}, {size for size in sizes if size > 44}


def test_deterministic_steps_have_one_size_and_one_prompt() -> None:
    assert step_sizes(deterministic=True) == ({6}, set())
    assert step_sizes(deterministic=True, async_batching=False, overlap_prefill=True) == ({6}, set())
    decode, several = step_sizes()
    assert len(decode) > 1
    assert several


def test_a_cache_that_cannot_hold_the_longest_sequence_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_model_len=128 is more than the 112 tokens"):
        make_core("llama", num_kv_blocks=7)


CUDA_MODES = [{"enforce_eager": True}, {"compile": False}, {"compile": False, "async_batching": False}]


@pytest.mark.gpu
@pytest.mark.parametrize("family", families())
def test_the_gpu_gives_what_generate_gives_on_a_cpu(family: str) -> None:
    prompts = prompts_of(1, 10)
    for mode in [*CUDA_MODES, {"compile": True}] if family in ("llama", "gemma2") else CUDA_MODES:
        core = make_cuda_core(family, **mode)
        core.add(requests_for(prompts))
        answers = finish(core)
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), prompt


@pytest.mark.gpu
def test_the_gpu_preempts_hits_prefixes_and_cuts_prompts_without_a_trace() -> None:
    prompts = prompts_of(1, 10)
    prompts = [prompts[0][:40] + p for p in prompts]
    for overlap_prefill in (True, False):
        core = make_cuda_core("llama", overlap_prefill=overlap_prefill, num_kv_blocks=12, max_num_batched_tokens=33)
        core.add(requests_for(prompts))
        answers = finish(core)
        assert core.stats().preemptions
        assert core.stats().cached_tokens
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS), prompt


@pytest.mark.gpu
def test_the_gpu_draws_what_the_cpu_draws() -> None:
    prompts = prompts_of(5, 12)
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.8, top_p=0.95)
    requests = [EngineRequest(i, p, params, (100 * i,)) for i, p in enumerate(prompts)]
    answers = []
    for core in (make_core("llama"), make_cuda_core("llama")):
        core.add(requests)
        answers.append(finish(core))
    assert answers[0] == answers[1]


@pytest.mark.gpu
def test_deterministic_gives_the_same_tokens_async_and_sync_in_bfloat16() -> None:
    prompts = prompts_of(9, 40)
    params = SamplingParams(max_tokens=60, temperature=1.0)
    answers = []
    for async_batching in (True, False):
        core = make_cuda_core(
            "llama", torch.bfloat16, deterministic=True, async_batching=async_batching, num_kv_blocks=99
        )
        core.add([EngineRequest(i, p, params, (i,)) for i, p in enumerate(prompts)])
        answers.append(finish(core))
    assert answers[0] == answers[1]
