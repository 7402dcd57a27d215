"""Graphs of decode steps are captured ahead while the device is busy, and in the mode in which steps run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_engine_exact import (
    MAX_TOKENS,
    expected_answer,
    finish,
    make_core,
    make_cuda_core,
    prompts_of,
    requests_for,
)

from runner.engine.core import EngineCore
from runner.engine.device import products
from runner.engine.device_times import DeviceTimes
from runner.engine.graphs import DecodeGraphs
from runner.engine.sampler import Variant

SIZES = [2, 4, 8, 16, 24]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> DecodeGraphs:
    """Of a machine without CUDA: a capture is its key."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(DecodeGraphs, "_capture", lambda self, size, variant: (size, variant))
    return DecodeGraphs(lambda *_: pytest.fail("no step is run"), lambda *_: None, SIZES)


def captured(graphs: DecodeGraphs) -> list[int]:
    return [size for size, _ in graphs._graphs]


def test_sizes_up_to_the_batch_are_captured_the_largest_first(graphs: DecodeGraphs) -> None:
    graphs.capture_ahead(9, Variant.GREEDY, 60)
    assert captured(graphs) == [16, 8, 4, 2]
    graphs.capture_ahead(24, Variant.GREEDY, 60)
    assert captured(graphs) == [16, 8, 4, 2, 24]


def test_no_capture_begins_that_would_end_too_late(graphs: DecodeGraphs) -> None:
    graphs.capture_ahead(24, Variant.GREEDY, 0)
    assert captured(graphs) == []
    graphs._slowest = 3600.0
    graphs.capture_ahead(24, Variant.GREEDY, 60)
    assert captured(graphs) == []


def test_without_memory_the_rest_is_left(graphs: DecodeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(self: DecodeGraphs, size: int, variant: Variant) -> Any:
        if size < 16:
            raise torch.OutOfMemoryError
        return size, variant

    monkeypatch.setattr(DecodeGraphs, "_capture", capture)
    graphs.capture_ahead(24, Variant.GREEDY, 60)
    assert captured(graphs) == [24, 16]


class Asked:
    """Graphs that note what they are asked to capture, and whether that was as steps run."""

    def __init__(self, core: EngineCore) -> None:
        self._decode = core.runner._decode  # type: ignore[attr-defined]
        self.asked: list[tuple[int, bool]] = []

    def run(self, num_rows: int, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        return self._decode(num_rows, variant)  # type: ignore[no-any-return]

    def capture_ahead(self, num_rows: int, variant: Variant, seconds: float) -> None:
        self.asked.append((num_rows, torch.is_inference_mode_enabled()))


def test_prefill_steps_capture_for_all_rows_that_may_come() -> None:
    core = make_core("llama", max_num_seqs=8, max_num_batched_tokens=64)
    core.runner._graphs = asked = Asked(core)  # type: ignore[attr-defined]
    core.add(requests_for(prompts_of(1, 6)))
    finish(core)
    assert len(asked.asked) > 1
    assert set(asked.asked) == {(6, True)}


@pytest.mark.parametrize("async_batching", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_rows_on_a_stream_of_their_own_beside_prompts_get_what_generate_gives(
    family: str, async_batching: bool
) -> None:
    core = make_core(family, mixed_prefill=True, max_num_batched_tokens=40, async_batching=async_batching)
    core.runner._graphs = Asked(core)  # type: ignore[attr-defined]
    besides, run = [], core.runner._prefill_beside  # type: ignore[attr-defined]
    core.runner._prefill_beside = lambda *args: besides.append(None) or run(*args)  # type: ignore[attr-defined]
    prompts = prompts_of(7, 24)
    core.add(requests_for(prompts))
    answers = finish(core)
    assert len(besides) > 10
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), prompt


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_two_streams_on_a_gpu_get_what_generate_gives(family: str) -> None:
    for compiled in (False, True):
        core = make_cuda_core(family, mixed_prefill=True, compile=compiled, max_num_batched_tokens=40)
        prompts = prompts_of(7, 24)
        core.add(requests_for(prompts))
        answers = finish(core)
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), prompt


@pytest.mark.gpu
def test_products_can_be_told_to_leave_room() -> None:
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    assert products._cublas() is not None
    with products.products_on(40):
        few = a @ a
    assert torch.allclose(few, a @ a)


@pytest.mark.gpu
def test_graphs_captured_ahead_of_need_change_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DeviceTimes, "expected", lambda self, tokens: 600.0)
    prompts = prompts_of(4, 8)
    for compiled in (False, True):
        core = make_cuda_core("llama", compile=compiled, max_num_batched_tokens=64)
        core.add(requests_for(prompts))
        core.step()
        assert sorted(captured(core.runner._graphs)) == core.runner._graphs._sizes  # type: ignore[attr-defined]
        answers = finish(core)
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS), prompt
    assert "without CUDA graphs" not in caplog.text
