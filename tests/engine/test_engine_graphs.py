"""Graphs of decode steps are captured ahead while the device is busy, and in the mode in which steps run."""

from __future__ import annotations

import itertools
import time
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
from runner.engine.device.cpu import _VAIN_LOOKS
from runner.engine.device_times import DeviceTimes
from runner.engine.graphs import DecodeGraphs, Kind
from runner.engine.lane import Launched
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
    """Graphs that note what they are asked to capture: rows now, at most, and how many captures there was time for."""

    def __init__(self, core: EngineCore) -> None:
        self._decode = core.runner._decode  # type: ignore[attr-defined]
        self.asked: list[tuple[int, int, int]] = []

    def run(self, num_rows: int, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
        return self._decode(num_rows, kind)  # type: ignore[no-any-return]

    def capture_ahead(self, num_rows: int, most: int, kind: Kind, has_time: Callable[[float], bool]) -> None:
        assert torch.is_inference_mode_enabled(), "steps run in it"
        count = sum(1 for _ in itertools.takewhile(lambda _: has_time(0.05), range(5)))
        self.asked.append((num_rows, most, count))


Step = tuple[str, int, int]  # which, rows that it samples for, rows that are expected


def asked_after_each_step(core: EngineCore) -> list[tuple[Step, tuple[int, int, int] | None]]:
    """Runs all there is to do: each step that is launched, and what it makes the graphs be asked for."""
    runner: Any = core.runner
    runner._graphs = asked = Asked(core)
    prepare, steps = runner.prepare, []

    def note(launched: Launched, num_rows: int) -> None:
        plan, before = launched.plan, len(asked.asked)
        beside = " beside" if plan.beside_rows or (not plan.chunks and runner._num_prompts) else ""
        prepare(launched, num_rows)
        runner._device.synchronize()  # else it would be asked later
        which = "prompts first" if plan.holds_rows else ("prompts" if plan.chunks else "rows") + beside
        told = asked.asked[before] if len(asked.asked) > before else None
        steps.append(((which, len(plan.sampled), num_rows), told))

    runner.prepare = note
    finish(core)
    return steps


def test_in_turns_steps_of_prompts_hide_captures_in_half_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    for seconds, count in (0.11, 5), (0.09, 0):
        monkeypatch.setattr(DeviceTimes, "expected", lambda *_, seconds=seconds: seconds)
        core = make_core("llama", max_num_seqs=8, max_num_batched_tokens=64)
        core.add(requests_for([[7] * 100, *prompts_of(1, 6, longest=60)], max_tokens=12))
        steps = asked_after_each_step(core)
        assert steps[0][0][1] == 0, "a prompt that does not fit a step has no answer yet"
        for (which, sampled, expected), asked in steps:
            captures = which == "prompts first" and sampled > 0
            assert asked == ((sampled, expected, count) if captures else None), which


def test_beside_prompts_each_step_of_rows_hides_one_capture() -> None:
    core = make_core("llama", overlap_prefill=True, max_num_seqs=8, max_num_batched_tokens=64)
    core.add(requests_for(prompts_of(1, 8, longest=60), max_tokens=12))
    steps = asked_after_each_step(core)
    assert {step[0] for step, _ in steps} == {"prompts", "prompts beside", "rows beside", "rows"}
    for (which, sampled, expected), asked in steps:
        if which == "prompts" and sampled:
            assert asked is not None
            assert asked[:2] == (sampled, expected)
        else:
            assert asked == ((sampled, expected, 1) if which == "rows beside" else None), which


def test_prompts_that_rows_wait_for_hide_captures_in_half_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(DeviceTimes, "expected", lambda *_: 0.11)
    core = make_core("llama", overlap_prefill=True, max_num_seqs=8, max_num_batched_tokens=64)
    core.add(requests_for(prompts_of(1, 8, longest=60), max_tokens=12))
    core.close_input()
    steps = asked_after_each_step(core)
    assert {step[0] for step, _ in steps} == {"prompts", "prompts first", "rows"}
    for (which, sampled, expected), asked in steps:
        if which == "prompts first" and sampled:
            assert asked == (sampled, expected, 5)


def test_while_no_row_runs_captures_go_on_until_the_prompts_are_done() -> None:
    core = make_core("llama", overlap_prefill=True, max_num_seqs=8, max_num_batched_tokens=64)
    core.runner._graphs = asked = Asked(core)  # type: ignore[attr-defined]
    core.add(requests_for(prompts_of(1, 6, longest=60)))
    finish(core)
    assert asked.asked[0][2] == _VAIN_LOOKS


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
