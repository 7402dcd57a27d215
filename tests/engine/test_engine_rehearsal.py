"""Kernels are called in threads before the first row, for whatever kinds of attention a model has."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model
from torch import nn

from runner.engine import build, rehearsal
from runner.engine.attention.metadata import AttentionSpec
from runner.engine.device.cpu import CpuDevice
from runner.engine.graph_sizes import candidate_sizes
from runner.engine.layers import StepContext
from runner.engine.probe import probe
from runner.engine.rehearsal import Rehearsal, kernel_calls, prompt_sizes
from runner.engine.scheduler_config import SchedulerConfig

SPECS = [
    AttentionSpec(4, 2, 16, 16, 0.25),
    AttentionSpec(4, 4, 32, 16, 0.25, window=8, soft_cap=30.0, sinks=True),
]


class Noting:
    """A backend that notes what it is asked for."""

    specs, dtype, device = SPECS, torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[tuple[AttentionSpec, int, bool, bool]] = []

    def attend(self, *asked: Any) -> None:
        query, key, value, cache, batch, spec, sinks = asked
        assert [x.shape[1:] for x in (query, key, value)] == [
            (spec.num_heads, spec.head_dim),
            (spec.num_kv_heads, spec.head_dim),
            (spec.num_kv_heads, spec.value_dim),
        ]
        assert (sinks is not None) == spec.sinks
        assert cache.value.shape[2:] == value.shape[1:]
        assert batch.block_table.stride(0) == 256
        self.seen.append((spec, batch.num_decode, batch.fresh, batch.prefix is not None))


CONFIG = SchedulerConfig(8, 3200, 4096, 16, 1, share_reads=True)


@pytest.mark.parametrize("share_reads", [False, True])
def test_each_kind_of_attention_reads_prompts_and_rows(share_reads: bool) -> None:
    backend = Noting()
    with Rehearsal() as calls:
        calls.start(kernel_calls(backend, replace(CONFIG, share_reads=share_reads), 100))  # type: ignore[arg-type]
    plain, windowed = SPECS
    each = {(0, True, False), (0, False, False), (1, False, False)}
    shared = {(1, False, True)} if share_reads else set()
    assert {tuple(what) for spec, *what in backend.seen if spec == plain} == each | shared
    assert {tuple(what) for spec, *what in backend.seen if spec == windowed} == each


def test_calls_run_beside_the_caller_and_their_errors_reach_it() -> None:
    go = threading.Event()

    def fail() -> None:
        assert go.wait(60)
        raise RuntimeError("no such card")

    with pytest.raises(RuntimeError, match="no such card"), Rehearsal() as calls:
        calls.start([fail])
        go.set()


def test_what_has_not_begun_is_dropped_when_the_start_fails() -> None:
    go, done = threading.Event(), []

    def call() -> None:
        assert go.wait(60)
        done.append(1)

    def release(calls: Rehearsal) -> None:
        until = time.monotonic() + 10
        while not calls._calls[-1].cancelled() and time.monotonic() < until:
            time.sleep(0.01)
        go.set()

    with pytest.raises(KeyError), Rehearsal() as calls:
        calls.start([call] * 100)
        threading.Thread(target=release, args=[calls]).start()
        raise KeyError
    assert len(done) < 100


def test_wide_linears_are_called_once_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "is_wide", lambda weight: len(weight) >= 64)
    seen = []
    monkeypatch.setattr(
        rehearsal, "wide_linear", lambda x, weight, bias: seen.append((len(x), len(weight), bias is not None))
    )
    modules = [nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 8)), nn.Linear(8, 64), nn.Linear(8, 96, bias=False)]
    for call in rehearsal.linear_calls(modules):
        call()
    assert seen == [(rows, *which) for which in ((64, True), (96, False)) for rows in (2, 17, 33)]


def test_products_are_called_for_each_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        rehearsal.functional, "linear", lambda x, weight, bias: seen.append((len(x), len(weight), bias is not None))
    )
    quantised = nn.Linear(8, 3, bias=False)
    quantised.weight = nn.Parameter(torch.zeros(3, 8, dtype=torch.uint8), requires_grad=False)
    rehearsal.call_products([nn.Linear(8, 4), nn.Linear(8, 5, bias=False), quantised], [2, 7])
    assert seen == [(2, 4, True), (2, 5, False), (7, 4, True), (7, 5, False)]


@given(st.integers(1, 20_000))
def test_the_largest_step_of_prompts_is_among_the_sizes(max_tokens: int) -> None:
    sizes = prompt_sizes(max_tokens)
    assert len(sizes) <= 32
    assert sizes[0] >= 1
    assert sizes[-1] == max_tokens


@pytest.mark.parametrize("accelerated", [False, True])
def test_wide_linears_are_called_while_the_model_is_proven(accelerated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, called = tiny_model("llama"), threading.Event()
    monkeypatch.setattr(build, "linear_calls", lambda modules: [called.set] if list(modules) == [model] else [])
    monkeypatch.setattr(build, "probe", lambda *_: called.wait(60 if accelerated else 0))
    assert build._proven(model, 128, accelerated) is accelerated  # type: ignore[comparison-overlap]


class Leaving(CpuDevice):
    """Notes when it is to leave room."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves_room = False

    @contextmanager
    def leaving_room(self) -> Iterator[None]:
        self.leaves_room = True
        yield
        self.leaves_room = False


@pytest.mark.parametrize("overlap", [False, True])
def test_a_start_calls_kernels_beside_its_first_step_and_then_products(
    overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, device, events = tiny_model("llama"), Leaving(), []
    probe(model, 128)
    backend, config = Noting(), replace(CONFIG, overlap_prefill=overlap)
    monkeypatch.setattr(build, "first_step", lambda *_: events.append("first step"))
    monkeypatch.setattr(build, "kernel_calls", lambda *_: [lambda: events.append("kernel")])
    monkeypatch.setattr(
        build,
        "call_products",
        lambda modules, sizes: events.append((list(modules), list(sizes), device.leaves_room)),
    )
    build._rehearse(model, backend, StepContext(), config, device)  # type: ignore[arg-type]
    layer, head = model.model.layers[0], model.lm_head
    assert set(events[:2]) == {"first step", "kernel"}
    beside = [([layer], prompt_sizes(3200), True)] if overlap else []
    assert events[2:] == [
        ([layer, head], candidate_sizes(8), False),
        ([layer], prompt_sizes(3200), False),
        *beside,
    ]
