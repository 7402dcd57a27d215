"""Kernels are called in threads before the first row, for whatever kinds of attention a model has."""

from __future__ import annotations

import threading

import pytest
import torch

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.rehearsal import Rehearsal, kernel_calls

SPECS = [
    AttentionSpec(4, 2, 16, 16, 0.25),
    AttentionSpec(4, 4, 32, 16, 0.25, window=8, soft_cap=30.0, sinks=True),
]


class Noting:
    """A backend that notes what it is asked for."""

    specs, dtype, device = SPECS, torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[tuple[AttentionSpec, int, bool, bool]] = []

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None,
    ) -> None:
        assert [x.shape[1:] for x in (query, key, value)] == [
            (spec.num_heads, spec.head_dim),
            (spec.num_kv_heads, spec.head_dim),
            (spec.num_kv_heads, spec.value_dim),
        ]
        assert (sinks is not None) == spec.sinks
        assert cache.value.shape[2:] == value.shape[1:]
        assert batch.block_table.stride(0) == 256
        self.seen.append((spec, batch.num_decode, batch.fresh, batch.prefix is not None))


def test_each_kind_of_attention_reads_prompts_and_rows() -> None:
    backend, rehearsal = Noting(), Rehearsal()
    rehearsal.start(kernel_calls(backend, 16, 256, 100, share_reads=True))  # type: ignore[arg-type]
    rehearsal.finish()
    plain, windowed = SPECS
    each = {(0, True, False), (0, False, False), (1, False, False)}
    assert {tuple(what) for spec, *what in backend.seen if spec == plain} == {*each, (1, False, True)}
    assert {tuple(what) for spec, *what in backend.seen if spec == windowed} == each


def test_calls_run_beside_the_caller_and_their_errors_reach_it() -> None:
    go, rehearsal = threading.Event(), Rehearsal()

    def fail() -> None:
        assert go.wait(60)
        raise RuntimeError("no such card")

    rehearsal.start([fail])
    go.set()
    with pytest.raises(RuntimeError, match="no such card"):
        rehearsal.finish()
