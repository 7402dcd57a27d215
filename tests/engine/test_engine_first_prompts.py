"""When rows wait for prompts that could be computed beside them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from stub_runner import StubLaunched, StubRunner, stub_answer
from test_engine_admission import steps_of
from test_engine_core import finish, make_core, request

from runner.engine.core import EngineCore
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable

BESIDE = SchedulerConfig(32, 64, 256, 4, 400, overlap_prefill=True)


def rows_between_prompts(lengths: list[int], config: SchedulerConfig = BESIDE, close: bool = True) -> list[int]:
    """How many steps of rows are launched between steps of prompts; four prompts of 16 tokens fill one."""
    core = make_core(config)
    core.add([request(i, [i] * 16, max_tokens=length) for i, length in enumerate(lengths)])
    if close:
        core.close_input()
    steps = steps_of(core)
    prompts = [i for i, (_, tokens) in enumerate(steps) if tokens]
    return [after - before - 1 for before, after in pairwise(prompts)]


def test_rows_get_no_further_ahead_of_the_last_prompts_than_they_last_longer() -> None:
    """Where more comes later, or some must wait for a place or for blocks in any case, none ends alone for that."""
    equal, falling, at_last = [60] * 16, list(range(60, 12, -3)), [60] * 12 + [50] * 4
    assert rows_between_prompts(equal) == [0, 0, 0]
    assert min(rows_between_prompts(falling)) > 0
    assert rows_between_prompts(at_last)[:2] == [0, 0]
    assert rows_between_prompts(at_last)[2] > 0
    assert min(rows_between_prompts([200] + [60] * 15)) > 0  # one that lasts longer is enough
    assert min(rows_between_prompts(equal, close=False)) > 0
    assert rows_between_prompts(equal, replace(BESIDE, max_num_seqs=12))[0] > 0
    assert rows_between_prompts(equal, replace(BESIDE, num_blocks=64))[0] > 0


def test_prompts_that_rows_wait_for_are_launched_one_ahead_even_in_pieces() -> None:
    core, in_flight = make_core(replace(BESIDE, max_num_batched_tokens=48)), []
    launch = core.runner.launch

    def note(plan: StepPlan, table: SlotTable) -> Any:
        if plan.chunks:
            in_flight.append((plan.holds_rows, len(core._prompts)))
        return launch(plan, table)

    core.runner.launch = note  # type: ignore[method-assign]
    core.add([request(i, [i] * 40, max_tokens=60) for i in range(8)])
    core.close_input()
    finish(core)
    assert in_flight[0] == (False, 0)  # nothing runs that could wait
    assert in_flight[1:3] == [(True, 0), (True, 1)]
    assert set(in_flight[3:]) == {(True, 1)}


def test_what_rows_have_made_is_read_before_they_wait_for_prompts() -> None:
    core = make_core(BESIDE)
    core.add([request(i, [i] * 16, max_tokens=20) for i in range(4)])
    while not core._in_flight:
        core.step()
    core.add([request(i, [i] * 16, max_tokens=60) for i in range(4, 16)])
    core.close_input()
    core.step()
    assert core._prompts
    assert not core._in_flight
    assert len(finish(core)) == 16


def test_what_comes_after_the_input_was_said_to_be_closed_opens_it_again() -> None:
    core = make_core(BESIDE)
    core.close_input()
    core.add([request(i, [i] * 16, max_tokens=60) for i in range(16)])
    assert any(rows and not tokens for rows, tokens in steps_of(core)[:4])


@pytest.mark.parametrize(("in_pieces", "whole", "first"), [(10, 60, True), (60, 10, True), (10, 10, False)])
def test_of_prompts_begun_and_of_those_that_wait_the_longest_answer_counts(
    in_pieces: int, whole: int, first: bool
) -> None:
    core = make_core(BESIDE)
    core.add([request(0, [0] * 16, max_tokens=40)])
    while not core._in_flight:
        core.step()
    core.add([request(1, [1] * 100, max_tokens=in_pieces)])
    core.step()
    assert core.scheduler.roster.prefilling
    core.add([request(2, [2] * 16, max_tokens=whole)])
    core.close_input()
    assert (core.scheduler.schedule_first_prompts() is not None) == first


@pytest.mark.parametrize("of_rows", [True, False], ids=["rows", "prompts"])
def test_out_of_memory_while_rows_wait_loses_nothing(of_rows: bool) -> None:
    class Fails(StubRunner):
        left = 0

        def results(self, launched: StubLaunched) -> StepResults:
            if self.left and bool(len(launched.plan.decode)) == of_rows:
                self.left -= 1
                held.append(any(prompts.plan.holds_rows for prompts in core._prompts))
                raise torch.OutOfMemoryError
            return super().results(launched)

    held: list[bool] = []
    runner = Fails(4, late_prompts=True)
    core = EngineCore(Scheduler(BESIDE), runner)
    core.add([request(i, [i] * 16, max_tokens=20) for i in range(4)])
    while not core._in_flight:
        core.step()
    core.add([request(i, [i] * 16, max_tokens=60) for i in range(4, 16)])
    core.close_input()
    runner.left = 1
    answers = {sample.request_id: sample.token_ids for sample in finish(core)}
    assert held == [True]
    assert answers == {i: stub_answer([i] * 16, 20 if i < 4 else 60, 0) for i in range(16)}
