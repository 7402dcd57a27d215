"""Log probabilities against the model's own forward pass, however the work is batched."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_exact import finish, make_core, make_cuda_core, prompts_of
from tiny_models import save_tiny_model, tiny_model
from transformers.generation import logits_process as hf

from runner.engine import Engine
from runner.engine.core import EngineCore
from runner.engine.results import ResultLayout, logprob_words, step_width
from runner.engine.sampler import LogprobsBuffer, Variant
from runner.engine.wire import Progress
from runner.limits import MAX_LOGPROBS
from runner.types import EngineRequest, EngineStats, FinishReason, Logprobs, Sample, SamplingParams

WORDS_OF_ONE = 4  # bytes


@cache
def reference_model() -> Any:
    return tiny_model("llama").double()


def reference_logprobs(prompt: list[int], answer: list[int], params: SamplingParams) -> torch.Tensor:
    """[len(answer), V]: transformers' processors over one float64 forward of the whole sequence."""
    ids = torch.tensor([prompt + answer])
    with torch.inference_mode():
        logits = reference_model()(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    rows = []
    for i, x in enumerate(logits):
        history, x = ids[:, : len(prompt) + i], x[None]
        if params.repetition_penalty != 1:
            x = hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(history, x)
        if params.temperature > 0:
            x = hf.TemperatureLogitsWarper(params.temperature)(history, x)
            if params.top_k > 0:
                x = hf.TopKLogitsWarper(params.top_k)(history, x)
        rows.append(x.log_softmax(1)[0])
    return torch.stack(rows)


def check(sample: Sample, prompt: list[int], params: SamplingParams) -> None:
    """The log probabilities of a sample are there if asked for, whole, and those of the reference."""
    if params.logprobs is None:
        assert sample.logprobs is None
        return
    assert sample.logprobs is not None
    num_tokens = len(sample.token_ids)
    assert len(sample.logprobs.packed) == WORDS_OF_ONE * logprob_words(params.logprobs) * num_tokens
    expected = reference_logprobs(prompt, sample.token_ids, params)
    for entry, token, row in zip(sample.logprobs.entries(sample.token_ids), sample.token_ids, expected, strict=True):
        assert entry["token_id"] == token
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        count = min(params.logprobs, int(row.isfinite().sum()))
        best = row.topk(count).values.tolist()
        assert [one["logprob"] for one in entry["top"]] == pytest.approx(best, abs=1e-4)
        assert [float(row[one["token_id"]]) for one in entry["top"]] == pytest.approx(best, abs=1e-4)
        assert len({one["token_id"] for one in entry["top"]}) == count


KINDS = [
    SamplingParams(temperature=0.8, logprobs=2),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, top_k=3, logprobs=5),
    SamplingParams(temperature=0.7, repetition_penalty=1.3, logprobs=0),
    SamplingParams(temperature=0.0, logprobs=1),
    SamplingParams(temperature=1.5, logprobs=MAX_LOGPROBS),
    SamplingParams(temperature=0.9),
]


def requests_over(
    prompts: list[list[int]], kinds: list[SamplingParams], max_tokens: int, n: int
) -> list[EngineRequest]:
    requests = []
    for i, prompt in enumerate(prompts):
        params = kinds[i % len(kinds)]
        count = n if params.temperature > 0 else 1
        params = replace(params, max_tokens=max_tokens, n=count)
        requests.append(EngineRequest(i, prompt, params, tuple(10 * i + k for k in range(count)), tuple(range(count))))
    return requests


def samples_of(core: EngineCore, requests: list[EngineRequest]) -> dict[tuple[int, int], Sample]:
    core.add(requests)
    samples = {}
    while core.has_work:
        samples |= {(sample.request_id, sample.sample_index): sample for sample in core.step()}
    core.check_drained()
    return samples


MODES: dict[str, dict[str, Any]] = {
    "async": {},
    "sync": {"async_batching": False},
    "preempted": {"block_size": 4, "num_kv_blocks": 26, "max_model_len": 100},
    "preempted, sync": {"block_size": 4, "num_kv_blocks": 26, "max_model_len": 100, "async_batching": False},
    "prompts beside rows": {"overlap_prefill": True, "max_num_batched_tokens": 17},
    "deterministic": {"deterministic": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_log_probabilities_of_a_forward_pass(mode: str) -> None:
    """Rows that ask for none, for some and for others in one batch; n of a prompt, shared beginnings, ends by EOS."""
    shared = prompts_of(8, 1, longest=40)[0][:17]
    prompts = [shared + prompt if i % 2 else prompt for i, prompt in enumerate(prompts_of(7, 10, longest=20))]
    requests = requests_over(prompts, KINDS, 30, n=2)
    core = make_core("llama", **MODES[mode])
    samples = samples_of(core, requests)
    for (request_id, _), sample in samples.items():
        check(sample, prompts[request_id], requests[request_id].sampling)
    assert len(samples) == sum(request.sampling.n for request in requests)
    assert {FinishReason.LENGTH} < {sample.finish_reason for sample in samples.values()}
    assert bool(core.stats().preemptions) == mode.startswith("preempted")
    assert bool(core.stats().cached_tokens) == (mode != "deterministic")


def test_asking_changes_no_token_and_deterministic_repeats_to_the_bit() -> None:
    prompts = prompts_of(7, 8, longest=20)
    plain = [replace(params, logprobs=None) for params in KINDS]
    modes = [{"deterministic": True}, {"deterministic": True, "async_batching": False}]
    first, second = (samples_of(make_core("llama", **mode), requests_over(prompts, KINDS, 20, 1)) for mode in modes)
    without = samples_of(make_core("llama"), requests_over(prompts, plain, 20, 1))
    assert first == second
    assert {key: s.token_ids for key, s in first.items()} == {key: s.token_ids for key, s in without.items()}
    assert all(sample.logprobs is None for sample in without.values())


def test_only_steps_in_which_a_row_asks_work_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", async_batching=False)
    sampler: Any = core.runner._sampler  # type: ignore[attr-defined]
    sample, seen = sampler.sample, []

    def spied(logits: Any, rows: Any, positions: Any, state: Any, variant: Variant, logprobs: Any = None) -> Any:
        seen.append((variant is Variant.FULL, None if logprobs is None else logprobs.token_ids.shape[1]))
        return sample(logits, rows, positions, state, variant, logprobs)

    monkeypatch.setattr(sampler, "sample", spied)
    greedy = {"temperature": 0.0, "ignore_eos": True}
    core.add(
        [
            EngineRequest(0, [5, 6], SamplingParams(max_tokens=6, **greedy), (0,)),
            EngineRequest(1, [5, 7], SamplingParams(max_tokens=2, logprobs=3, **greedy), (0,)),
            EngineRequest(2, [5, 8], SamplingParams(max_tokens=4, logprobs=0, **greedy), (0,)),
        ]
    )
    finish(core)
    assert seen == [(True, 5)] * 2 + [(True, 0)] * 2 + [(False, None)] * 2


def test_a_broken_row_returns_those_of_its_accepted_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", max_num_seqs=2)
    runner: Any = core.runner
    forward, calls = runner._forward, []

    def poisoned(*args: Any) -> torch.Tensor:
        logits = forward(*args).clone()
        calls.append(1)
        if len(calls) > 3:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(runner, "_forward", poisoned)
    params = SamplingParams(temperature=0.0, logprobs=1, max_tokens=9, ignore_eos=True)
    (broken, whole) = sorted(
        samples_of(core, [EngineRequest(i, [9 + i, 4], params, (0,)) for i in range(2)]).values(),
        key=lambda sample: len(sample.token_ids),
    )
    assert (len(broken.token_ids), broken.finish_reason) == (3, FinishReason.ERROR)
    for sample in (broken, whole):
        check(sample, [9 + sample.request_id, 4], params)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_results_come_back_as_they_were_written(data: st.DataObject) -> None:
    """Any padding behind the rows, any K; a row takes the first words of its step's."""
    rows, padding = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    asked = data.draw(st.lists(st.none() | st.integers(0, MAX_LOGPROBS), min_size=rows, max_size=rows))
    num_top = step_width(np.array([logprob_words(k) for k in asked], np.int32))
    assert (num_top is None) == (set(asked) == {None})
    assert num_top is None or max(k for k in asked if k is not None) <= num_top <= MAX_LOGPROBS
    layout = ResultLayout(rows, num_top)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    tokens, status = (torch.randint(0, 99, (rows + padding,), dtype=torch.int32, generator=generator) for _ in "ab")
    buffer = None
    if num_top is not None:
        buffer = LogprobsBuffer.empty(rows + padding, num_top, "cpu")
        buffer.sampled.copy_(torch.randn(rows + padding, generator=generator))
        buffer.token_ids.copy_(torch.randint(0, 99, buffer.token_ids.shape, generator=generator))
        buffer.logprobs.copy_(torch.randn(buffer.logprobs.shape, generator=generator))
    out = torch.full((layout.size + 7,), -77, dtype=torch.int32)
    layout.write(out, tokens, status, buffer)
    results = layout.read(out.numpy())
    assert results.tokens.tolist() == tokens[:rows].tolist()
    assert results.status.tolist() == status[:rows].tolist()
    assert out[layout.size :].tolist() == [-77] * 7
    for i, k in enumerate(asked):
        if buffer is None or k is None:
            continue
        assert results.logprobs is not None
        (entry,) = Logprobs(k, results.logprobs[i, : logprob_words(k)].tobytes()).entries([int(tokens[i])])
        pairs = zip(buffer.token_ids[i, :k].tolist(), buffer.logprobs[i, :k].tolist(), strict=True)
        assert entry["logprob"] == buffer.sampled[i].item()
        assert [(one["token_id"], one["logprob"]) for one in entry["top"]] == list(pairs)


def test_they_cross_to_the_run_as_they_are() -> None:
    packed = np.array([1.5, -0.5, 0.25], np.float32).tobytes()
    samples = [
        Sample(3, 0, [7, 8, 9], FinishReason.LENGTH, logprobs=Logprobs(0, packed)),
        Sample(4, 1, [7], FinishReason.STOP, stop_reason=7),
    ]
    assert Progress.pack(samples, EngineStats()).unpack() == samples


def test_places_that_no_token_can_take_are_left_out() -> None:
    packed = np.array([-0.5, 0, -0.5, 0, -math.inf], np.float32)
    packed.view(np.int32)[[1, 3]] = 12, -1
    assert Logprobs(2, packed.tobytes()).entries([12]) == [
        {"token_id": 12, "logprob": -0.5, "top": [{"token_id": 12, "logprob": -0.5}]}
    ]


def test_the_library_returns_them_cut_where_the_text_is(tmp_path: Path) -> None:
    """One process for both: entries end with the stop string, and a text is kept out of the next answer."""
    greedy = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, logprobs=2)
    with Engine(str(save_tiny_model(tmp_path / "llama")), max_num_seqs=2, cpu_kv_cache_gib=0.1) as engine:
        (whole,) = engine.generate("hello there", greedy)[0].outputs
        words = (whole.text[at : at + 2] for at in range(4, 30))
        word = next(text for text in words if text.isascii() and text.isprintable())  # random bytes are rarely text
        (stopped,) = engine.generate("hello there", replace(greedy, stop=(word,)))[0].outputs
        (without,) = engine.generate("hello there", replace(greedy, bad_words=(word,), logprobs=None))[0].outputs
    assert whole.logprobs is not None
    assert [entry["token_id"] for entry in whole.logprobs] == whole.token_ids
    assert stopped.logprobs == whole.logprobs[: len(stopped.token_ids)]
    assert 0 < len(stopped.token_ids) < 40
    assert (word in whole.text, word in without.text, without.logprobs) == (True, False, None)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_log_probabilities() -> None:
    prompts = prompts_of(7, 10, longest=20)
    requests = requests_over(prompts, KINDS, 30, n=2)
    for mode in ({"enforce_eager": True}, {"num_kv_blocks": 12, "max_model_len": 128}):
        for (request_id, _), sample in samples_of(make_cuda_core("llama", **mode), requests).items():
            check(sample, prompts[request_id], requests[request_id].sampling)
