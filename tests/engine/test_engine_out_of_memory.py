"""A step that runs out of memory shrinks the batch, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stub_runner import StubLaunched, StubRunner, stub_answer
from test_engine_core import CONFIG, finish, request

from runner.engine.core import EngineCore
from runner.engine.plan import Chunk, StepPlan
from runner.engine.results import StepResults
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.types import FinishReason


class FailingRunner(StubRunner):
    """Runs out of memory when a step has more sequences than ``most``, or more rows that decode."""

    most = 2
    of_rows = False

    def launch(self, plan, table):  # type: ignore[no-untyped-def]
        if len(plan.decode if self.of_rows else plan.slots) > self.most:
            raise torch.OutOfMemoryError
        return super().launch(plan, table)


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize("async_batching", [True, False])
def test_out_of_memory_shrinks_the_batch(async_batching: bool, of_rows: bool) -> None:
    runner = FailingRunner(4)
    runner.of_rows = of_rows
    core = EngineCore(Scheduler(CONFIG), runner, async_batching=async_batching)
    core.add([request(i, [i, 1], max_tokens=10) for i in range(6)])
    samples = finish(core)
    assert {s.request_id: s.token_ids for s in samples} == {i: stub_answer([i, 1], 10, 0) for i in range(6)}
    assert core.scheduler.room.max_running == 2


def test_a_lone_row_that_does_not_fit_is_given_up() -> None:
    runner = FailingRunner(4)
    runner.most = 0
    core = EngineCore(Scheduler(CONFIG), runner)
    core.add([request(0, [1, 2], max_tokens=10)])
    (sample,) = finish(core)
    assert sample.finish_reason is FinishReason.ERROR
    assert sample.error.startswith("out_of_memory")


@pytest.mark.parametrize("fails", ["launch", "results"])
@pytest.mark.parametrize("overlap_prefill", [True, False])
def test_prompts_that_do_not_fit_take_smaller_steps_and_leave_the_rows_alone(overlap_prefill: bool, fails: str) -> None:
    class Crowded(StubRunner):
        def launch(self, plan, table):  # type: ignore[no-untyped-def]
            self.check("launch", plan)
            return super().launch(plan, table)

        def results(self, launched):  # type: ignore[no-untyped-def]
            self.check("results", launched.plan)
            return super().results(launched)

        def check(self, where, plan):  # type: ignore[no-untyped-def]
            if where == fails and plan.num_prefill_tokens > 300:
                raise torch.OutOfMemoryError

    config = SchedulerConfig(8, 1000, 1000, 16, 400, overlap_prefill=overlap_prefill)
    core = EngineCore(Scheduler(config), Crowded(16, late_prompts=overlap_prefill))
    prompts = [[i, *range(5 + 67 * i % 700)] for i in range(20)]
    for few in (prompts[:1], prompts[1:]):  # the long ones come when there is a row that decodes
        core.add([request(prompt[0], prompt, max_tokens=40) for prompt in few])
        for _ in range(5):
            core.step()
    samples = finish(core)
    assert {s.request_id: s.token_ids for s in samples} == {i: stub_answer(p, 40, 0) for i, p in enumerate(prompts)}
    assert core.scheduler.room.max_running == 8
    assert 150 <= core.scheduler.max_prompt_tokens <= 300


@pytest.mark.parametrize("overlap_prefill", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_short_prompts_that_do_not_fit_beside_rows_are_not_taken_for_lone_ones(
    overlap_prefill: bool, count: int
) -> None:
    class Full(StubRunner):
        rows = 6

        def launch(self, plan, table):  # type: ignore[no-untyped-def]
            if plan.chunks and sum(s is not None for s in table.sequences) > self.rows:
                raise torch.OutOfMemoryError
            return super().launch(plan, table)

    config = replace(CONFIG, max_num_seqs=8, overlap_prefill=overlap_prefill)
    core = EngineCore(Scheduler(config), Full(4, late_prompts=overlap_prefill))
    core.add([request(i, [i, 1], max_tokens=20) for i in range(6)])
    samples = []
    for _ in range(6):
        samples += core.step()
    core.add([request(6 + i, [i, 2], max_tokens=20) for i in range(count)])
    samples += finish(core)
    assert len(samples) == 6 + count
    assert all(sample.error is None for sample in samples)
    assert core.scheduler.room.max_running >= 3


@pytest.mark.parametrize("fails", ["launch", "results"])
@pytest.mark.parametrize("overlap_prefill", [True, False])
def test_a_prompt_that_failed_beside_a_row_is_not_given_up_though_that_has_ended_since(
    overlap_prefill: bool, fails: str
) -> None:
    class Full(StubRunner):
        failing: tuple[StepPlan, ...] = ()

        def launch(self, plan, table):  # type: ignore[no-untyped-def]
            live = sum(s is not None and not table.gone[i] for i, s in enumerate(table.sequences))
            fails_now = bool(plan.chunks) and live > 1
            if fails_now and fails == "launch":
                raise torch.OutOfMemoryError
            if fails_now:
                self.failing += (plan,)
            return super().launch(plan, table)

        def results(self, launched):  # type: ignore[no-untyped-def]
            if any(launched.plan is plan for plan in self.failing):
                raise torch.OutOfMemoryError
            return super().results(launched)

    for length in range(2, 12):
        config = SchedulerConfig(8, 64, 256, 4, 400, overlap_prefill=overlap_prefill)
        core, samples = EngineCore(Scheduler(config), Full(4, late_prompts=overlap_prefill)), []
        core.add([request(0, [1] * 8, max_tokens=length)])
        for _ in range(5):
            samples += core.step()
        core.add([request(1, [2] * 8, max_tokens=20)])
        samples += finish(core)
        assert {s.request_id: s.token_ids for s in samples} == {
            0: stub_answer([1] * 8, length, 0),
            1: stub_answer([2] * 8, 20, 0),
        }


@pytest.mark.parametrize("overlap_prefill", [True, False])
def test_a_failure_amid_another_gives_up_none_that_ran_beside_others(overlap_prefill: bool) -> None:
    class Fails(StubRunner):
        stage = 0

        def launch(self, plan, table):  # type: ignore[no-untyped-def]
            if self.stage == 1 and plan.chunks:
                self.stage = 2
                raise torch.OutOfMemoryError
            return super().launch(plan, table)

        def results(self, launched):  # type: ignore[no-untyped-def]
            if self.stage == 2:
                self.stage = 3
                raise torch.OutOfMemoryError
            return super().results(launched)

    runner = Fails(4, late_prompts=overlap_prefill)
    core = EngineCore(Scheduler(SchedulerConfig(8, 64, 256, 4, 400, overlap_prefill=overlap_prefill)), runner)
    core.add([request(i, [i] * 8, max_tokens=40) for i in range(5)])
    for _ in range(6):
        core.step()
    core.add([request(9, [9] * 8, max_tokens=40)])
    runner.stage = 1
    answers = {sample.request_id: sample.token_ids for sample in finish(core)}
    assert runner.stage == 3
    assert core.scheduler.room.max_running == 2  # half of the five that ran, not of the six with the prompt
    assert answers == {i: stub_answer([i] * 8, 40, 0) for i in (0, 1, 2, 3, 4, 9)}


@pytest.mark.parametrize(("slots", "abandoned"), [((2, 4), False), ((-1, 4), False), ((-1, 3), True), ((), False)])
def test_prompts_are_abandoned_once_none_of_them_has_its_slot(slots: tuple[int, ...], abandoned: bool) -> None:
    """They had slots 2 and 4."""
    sequences: list[Any] = [SimpleNamespace(slot=slot) for slot in slots]
    chunks = [Chunk(sequence, slot, 0, 1, final=False) for sequence, slot in zip(sequences, (2, 4), strict=False)]
    assert StepPlan(chunks=chunks).is_abandoned == abandoned


@pytest.mark.parametrize("overlap_prefill", [True, False])
def test_a_lone_prompt_that_was_aborted_before_its_step_failed_leaves_room_for_others(overlap_prefill: bool) -> None:
    class Fails(StubRunner):
        left = 1

        def results(self, launched: StubLaunched) -> StepResults:
            if self.left:
                self.left -= 1
                raise torch.OutOfMemoryError
            return super().results(launched)

    config = SchedulerConfig(8, 16, 256, 4, 400, overlap_prefill=overlap_prefill)
    runner = Fails(4, late_prompts=overlap_prefill)
    core = EngineCore(Scheduler(config), runner)
    core.add([request(0, [1] * 40, max_tokens=5)])
    plan = core.scheduler.schedule_prompts(beside=overlap_prefill)
    assert plan is not None
    core._launch(plan, core._prompts if overlap_prefill else core._in_flight)
    core.abort({(0, 0)})
    core.add([request(1, [2] * 40, max_tokens=5)])
    assert [sample.token_ids for sample in finish(core, 500)] == [stub_answer([2] * 40, 5, 0)]
    assert not runner.left
