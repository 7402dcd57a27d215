"""Beginnings that rows share are found, told to the device when they change, and read once without a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stub_runner import StubLaunched, StubRunner, stub_answer
from test_engine_core import finish, request
from test_engine_exact import MAX_TOKENS, expected_answer, make_core, make_cuda_core, prompts_of, requests_for
from test_engine_exact import finish as finish_model

from runner.engine import build, shared_reads
from runner.engine.core import EngineCore
from runner.engine.plan import StepPlan
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_LOOK_STEPS", 3)
    monkeypatch.setattr(shared_reads, "FEWEST_ROWS", 3)
    monkeypatch.setattr(shared_reads, "_FEWEST_TOKENS", 64)


class Mirror(StubRunner):
    """Keeps what the device is told, and checks it against the tables of the rows that a step decodes."""

    def __init__(self, block_size: int, num_slots: int) -> None:
        super().__init__(block_size)
        self.size = block_size
        self.blocks = np.empty(0, np.int32)
        self.sharing = np.zeros(num_slots, np.int32)
        self.shared_steps = 0
        self.saved = 0  # tokens of cache that were not read again

    def launch(self, plan: StepPlan, table: SlotTable) -> StubLaunched:
        if plan.prefix is not None:
            self.blocks, self.sharing = plan.prefix.blocks, plan.prefix.sharing.copy()
        self.sharing[plan.joining] = plan.joining_sharing
        if plan.shares_reads:
            self.shared_steps += 1
            num_sharing = int((self.sharing[plan.decode] > 0).sum())
            assert num_sharing >= 3
            self.saved += (num_sharing - 1) * len(self.blocks) * self.size
        for slot in plan.decode.tolist():
            if self.sharing[slot]:
                assert self.sharing[slot] == len(self.blocks) * self.size < table.length[slot]
                assert table.block_table[slot, : len(self.blocks)].tolist() == self.blocks.tolist()
        return super().launch(plan, table)


def make_mirrored(num_blocks: int = 400, seqs: int = 12) -> tuple[EngineCore, Mirror]:
    config = SchedulerConfig(seqs, 256, 512, 16, num_blocks, share_reads=True)
    mirror = Mirror(16, seqs)
    return EngineCore(Scheduler(config), mirror), mirror


def test_a_beginning_of_all_is_read_once() -> None:
    core, mirror = make_mirrored()
    prompts = [[7] * 150 + [i] * 20 for i in range(40)]
    core.add([request(i, prompt, max_tokens=20) for i, prompt in enumerate(prompts)])
    samples = finish(core)
    assert {s.request_id: s.token_ids for s in samples} == {i: stub_answer(p, 20, 0) for i, p in enumerate(prompts)}
    assert len(mirror.blocks) * 16 == 128  # whole tiles of 64 alone
    assert mirror.shared_steps > core.stats().steps // 3


@pytest.mark.parametrize("other", [[7] * 16 + [99] * 200, [7] * 20])
def test_a_row_that_leaves_early_does_not_hide_what_the_others_share(other: list[int]) -> None:
    core, mirror = make_mirrored()
    prompts = [other, *([7] * 150 + [i] * 20 for i in range(20))]
    core.add([request(i, prompt, max_tokens=60 if prompt is other else 20) for i, prompt in enumerate(prompts)])
    finish(core)
    assert len(mirror.blocks) * 16 == 128
    assert mirror.shared_steps > 10


def test_what_is_read_once_is_counted_apart() -> None:
    core, mirror = make_mirrored()
    plain = EngineCore(Scheduler(SchedulerConfig(12, 256, 512, 16, 400)), StubRunner(16))
    for each in (core, plain):
        each.add([request(i, [7] * 150 + [i] * 20, max_tokens=20) for i in range(40)])
        finish(each)
    assert core.stats().kv_tokens_read == plain.stats().kv_tokens_read
    assert core.stats().kv_tokens_shared == mirror.saved > 0


def test_rows_of_their_own_are_left_alone() -> None:
    core, mirror = make_mirrored()
    core.add([request(i, [i] * 170, max_tokens=20) for i in range(24)])
    finish(core)
    assert mirror.shared_steps == 0


def test_the_beginning_that_saves_most_takes_over() -> None:
    core, mirror = make_mirrored()
    first, second = [[1] * 130 + [i] for i in range(12)], [[2] * 300 + [i] for i in range(30)]
    core.add([request(i, prompt, max_tokens=30) for i, prompt in enumerate(first + second)])
    seen = set()
    while core.has_work:
        core.step()
        seen.add(len(mirror.blocks) * 16)
    assert seen >= {128, 256}


class Forgetful(Mirror):
    """Runs out of memory when it is first told of a beginning, before it has noted it."""

    failed = False

    def launch(self, plan: StepPlan, table: SlotTable) -> StubLaunched:
        if plan.prefix is not None and not self.failed:
            self.failed = True
            raise torch.OutOfMemoryError
        return super().launch(plan, table)


def test_what_a_failed_step_was_to_tell_is_told_again() -> None:
    config = SchedulerConfig(12, 256, 512, 16, 400, share_reads=True)
    mirror = Forgetful(16, 12)
    core = EngineCore(Scheduler(config), mirror)
    prompts = [[7] * 150 + [i] * 20 for i in range(20)]
    core.add([request(i, prompt, max_tokens=30) for i, prompt in enumerate(prompts)])
    samples = finish(core)
    assert mirror.failed
    assert mirror.shared_steps
    assert {s.request_id: s.token_ids for s in samples} == {i: stub_answer(p, 30, 0) for i, p in enumerate(prompts)}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 260), st.integers(1, 30)), min_size=1, max_size=60),
    st.integers(40, 200),
)
@example(  # the last row gets, for tokens of its own, a block that was part of a beginning which nobody has any more
    rows=[(0, 256, 17), (1, 192, 2), (1, 192, 2), (1, 192, 16), (2, 144, 15), (1, 176, 2)], num_blocks=40
)
def test_what_the_device_is_told_is_always_true(rows: list[tuple[int, int, int]], num_blocks: int) -> None:
    """Rows of three families, more or less long beginnings, few blocks: preemptions, evictions, late ends."""
    core, _ = make_mirrored(num_blocks)
    prompts = [[family] * length + [100 + i] for i, (family, length, _) in enumerate(rows)]
    core.add([request(i, prompt, max_tokens=rows[i][2]) for i, prompt in enumerate(prompts)])
    samples = finish(core)
    assert {s.request_id: s.token_ids for s in samples} == {
        i: stub_answer(prompt, rows[i][2], 0) for i, prompt in enumerate(prompts)
    }


SHARED = {"max_num_seqs": 8, "num_kv_blocks": 128, "max_model_len": 256, "max_num_batched_tokens": 256}


def behind_one(num_rows: int, shared: int) -> list[list[int]]:
    beginning = prompts_of(11, 1, 60)[0] * 8
    return [beginning[:shared] + own for own in prompts_of(12, num_rows, 12)]


def count_shared(core: EngineCore) -> list[bool]:
    launch, shared = core.runner.launch, []

    def note(plan: StepPlan, table: SlotTable) -> Any:
        shared.append(plan.shares_reads)
        return launch(plan, table)

    core.runner.launch = note  # type: ignore[method-assign]
    return shared


def test_the_triton_backend_gives_what_generate_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(build, "default_backend", lambda device: "triton")
    monkeypatch.setattr(build, "_may_share_reads", lambda device, engine: True)
    monkeypatch.setattr("runner.engine.attention.triton_prefix._PROGRAMS", 2)  # the interpreter runs one at a time
    monkeypatch.setattr("runner.engine.attention.triton_decode._PROGRAMS", 8)
    core = make_core("llama", **SHARED)
    shared = count_shared(core)
    prompts = behind_one(num_rows=4, shared=70)
    core.add(requests_for(prompts, 5))
    answers = finish_model(core)
    assert sum(shared) > 2
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), 5), prompt


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_a_gpu_that_reads_a_beginning_once_gives_what_generate_gives(family: str) -> None:
    for compiled in (False, True):
        core = make_cuda_core(family, compile=compiled, **SHARED)
        shared = count_shared(core)
        prompts = behind_one(num_rows=10, shared=140)
        core.add(requests_for(prompts))
        answers = finish_model(core)
        assert sum(shared) > 3
        for i, prompt in enumerate(prompts):
            assert tuple(answers[i, 0]) == expected_answer(family, tuple(prompt), MAX_TOKENS), prompt
