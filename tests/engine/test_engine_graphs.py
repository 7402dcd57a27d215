"""Graphs of decode steps are captured ahead while the device is busy, and in the mode in which steps run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
from runner.engine.device_times import DeviceTimes
from runner.engine.graphs import DecodeGraphs, Kind
from runner.engine.sampler import Variant

SIZES = [2, 4, 8, 16, 24]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> DecodeGraphs:
    """Of a machine without CUDA: a capture is its key."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(DecodeGraphs, "_capture", lambda self, size, kind: (size, kind))
    return DecodeGraphs(lambda *_: pytest.fail("no step is run"), lambda *_: None, SIZES)


def captured(graphs: DecodeGraphs) -> list[int]:
    return [size for size, _ in graphs._graphs]


def always(_: float) -> bool:
    return True


def test_sizes_that_rows_grow_to_are_captured_first_and_those_they_shrink_to_last(graphs: DecodeGraphs) -> None:
    graphs.capture_ahead(5, 9, Kind(Variant.GREEDY), always)
    assert captured(graphs) == [8, 16, 4, 2]
    graphs.capture_ahead(5, 24, Kind(Variant.GREEDY), always)
    assert captured(graphs) == [8, 16, 4, 2, 24]


def test_no_capture_begins_that_would_end_too_late(graphs: DecodeGraphs) -> None:
    graphs._slowest = 3.0
    graphs.capture_ahead(24, 24, Kind(Variant.GREEDY), lambda seconds: seconds < 3)
    assert captured(graphs) == []
    graphs.capture_ahead(24, 24, Kind(Variant.GREEDY), lambda seconds: len(captured(graphs)) < 2)
    assert captured(graphs) == [24, 16]


def test_without_memory_the_rest_is_left(graphs: DecodeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(self: DecodeGraphs, size: int, kind: Kind) -> Any:
        if size < 16:
            raise torch.OutOfMemoryError
        return size, kind

    monkeypatch.setattr(DecodeGraphs, "_capture", capture)
    graphs.capture_ahead(24, 24, Kind(Variant.GREEDY), always)
    assert captured(graphs) == [24, 16]


class Asked:
    """Graphs that note what they are asked to capture, whether that was as steps run, and the captures there was
    time for, if there were five of 50 ms to do."""

    def __init__(self, core: EngineCore) -> None:
        self._decode = core.runner._decode  # type: ignore[attr-defined]
        self.asked: list[tuple[int, int, bool, int]] = []

    def run(self, num_rows: int, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
        return self._decode(num_rows, kind)  # type: ignore[no-any-return]

    def capture_ahead(self, num_rows: int, most: int, kind: Kind, has_time: Callable[[float], bool]) -> None:
        count = sum(1 for _ in itertools.takewhile(lambda _: has_time(0.05), range(5)))
        self.asked.append((num_rows, most, torch.is_inference_mode_enabled(), count))


def test_prefill_steps_capture_for_all_rows_that_may_come() -> None:
    core = make_core("llama", max_num_seqs=8, max_num_batched_tokens=64)
    core.runner._graphs = asked = Asked(core)  # type: ignore[attr-defined]
    core.add(requests_for(prompts_of(1, 6)))
    finish(core)
    assert len(asked.asked) > 1
    assert {(most, mode) for _, most, mode, _ in asked.asked} == {(6, True)}


def test_beside_prompts_a_step_of_rows_hides_one_capture() -> None:
    core = make_core("llama", overlap_prefill=True, max_num_seqs=8, max_num_batched_tokens=64)
    core.runner._graphs = asked = Asked(core)  # type: ignore[attr-defined]
    core.add(requests_for(prompts_of(1, 6, longest=60), max_tokens=12))
    finish(core)
    first, *others = asked.asked
    assert first[3] > 1, "while no row runs nothing waits for the host before the prompts are done"
    assert others
    assert {count for _, _, _, count in others} == {1}


@pytest.mark.gpu
def test_graphs_captured_ahead_of_need_change_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DeviceTimes, "expected", lambda self, tokens: 600.0)
    prompts = prompts_of(4, 8)
    for compiled in (False, True):
        core = make_cuda_core("llama", compile=compiled, max_num_batched_tokens=64, overlap_prefill=False)
        core.add(requests_for(prompts))
        core.step()
        graphs = core.runner._graphs  # type: ignore[attr-defined]
        assert {size for size, kind in graphs._graphs if kind == Kind(Variant.GREEDY)} == set(graphs._sizes)
        answers = finish(core)
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS), prompt
    assert "without CUDA graphs" not in caplog.text
