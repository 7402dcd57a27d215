"""What is left of a card goes to the cache, measured after the largest steps; here with a card that is made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from runner.engine import memory
from runner.engine.attention import AttentionBatch, allocate_cache, load_backend
from runner.engine.layers import PagedLayer, StepContext
from runner.engine.memory import _MARGIN_BYTES, FIRST_TOKENS, cuda_blocks, first_step
from runner.engine.probe import bind, probe
from runner.engine.scheduler_config import SchedulerConfig
from runner.errors import ConfigError

GIB = 1 << 30
CONFIG = SchedulerConfig(8, 200, 96, 16, 1)


class Bound:
    """A model over a cache of one block, on a card of 16 GiB with so many free, whose steps take one each."""

    def __init__(self, patch: pytest.MonkeyPatch, free: int) -> None:
        model = tiny_model("llama")
        specs = probe(model, CONFIG.max_model_len)
        backend = load_backend("reference", specs, 8, torch.device("cpu"), torch.float32, 16)
        context = StepContext()
        bind(
            model,
            lambda i: PagedLayer(specs[i], allocate_cache(1, 16, specs[i], torch.float32, "cpu"), backend, context),
        )
        self.parts = model, backend, context
        self.seen: list[AttentionBatch] = []
        run = memory.forward

        def note(*args: Any) -> torch.Tensor:
            self.seen.append(args[5])
            return run(*args)

        patch.setattr(memory, "forward", note)
        for name in ("synchronize", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda _: None)
        patch.setattr(torch.cuda, "memory_allocated", lambda _: 5 * GIB)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda _: 6 * GIB)
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 16 * GIB))


def test_the_cache_gets_what_the_largest_steps_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(monkeypatch, free=10 * GIB)
    blocks = cuda_blocks(*bound.parts, CONFIG, 0.75, 1 << 20)
    assert blocks == (10 * GIB - 4 * GIB - 2 * GIB - _MARGIN_BYTES) >> 20
    prompts, rows = bound.seen
    assert (prompts.num_prefill, len(prompts.slot_mapping), prompts.max_seqlen_q) == (3, 200, 67)
    assert rows.num_decode == 8
    assert {batch.block_table.shape[1] for batch in bound.seen} == {CONFIG.max_blocks_per_sequence}


def test_a_card_without_room_for_one_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(monkeypatch, free=6 * GIB)
    with pytest.raises(ConfigError, match=r"engine.gpu_memory_utilization=0.75: 6.0 GiB are free .* need 2.0"):
        cuda_blocks(*bound.parts, CONFIG, 0.75, 1 << 20)


def test_the_first_step_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound(monkeypatch, free=0)
    first_step(*bound.parts, CONFIG)
    assert [len(batch.slot_mapping) for batch in bound.seen] == [FIRST_TOKENS]
