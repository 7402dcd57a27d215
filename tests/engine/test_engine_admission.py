"""Who starts when: room in the cache, places in the batch, tokens in the step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_engine_core import finish, make_core, request

from runner.engine.core import EngineCore
from runner.engine.plan import StepPlan
from runner.engine.room import Room
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable


def test_admission_leaves_room_for_what_answers_turned_out_to_need(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SchedulerConfig(max_num_seqs=32, max_num_batched_tokens=64, max_model_len=64, block_size=4, num_blocks=60)

    def preemptions(stop_below: int) -> int:
        core = make_core(config, stop_below)
        core.add([request(i, [i, i + 1, i + 2], max_tokens=40) for i in range(200)])
        assert len(finish(core)) == 200
        return core.stats().preemptions

    learned = [preemptions(stop_below) for stop_below in (0, 20)]
    monkeypatch.setattr(Room, "_expected_growth", lambda self: 0)
    assert all(1.5 * count < preemptions(stop_below) for count, stop_below in zip(learned, (0, 20), strict=True))


def test_once_the_input_is_closed_the_longest_start_first() -> None:
    core = make_core(SchedulerConfig(2, 64, 128, 4, 64))
    lengths = [3, 9, 20, 5, 30, 8]
    core.add([request(i, [i, 1], max_tokens=length) for i, length in enumerate(lengths)])
    core.close_input()
    assert [s.request_id for s in core.scheduler.roster.waiting] == [4, 2, 1, 5, 3, 0]
    assert len(finish(core)) == 6


def test_a_prefill_step_waits_until_it_is_worth_interrupting_the_running_rows() -> None:
    core = make_core(SchedulerConfig(32, 512, 128, 4, 2000), async_batching=False)
    core.add([request(i, [i, 1], max_tokens=3 + i) for i in range(32)])
    core.step()
    core.add([request(100 + i, [i, 2], max_tokens=50) for i in range(8)])
    admitted = []
    while len(core.scheduler.roster.waiting):
        before = core.stats().num_running, len(core.scheduler.roster.waiting)
        core.step()
        admitted.append(before[1] - len(core.scheduler.roster.waiting))
    assert max(admitted) == 4
    assert all(count in (0, 4) for count in admitted), admitted


@pytest.mark.parametrize("async_batching", [False, True])
@pytest.mark.parametrize(
    ("what", "first_ends_by"), [({}, 23), ({"max_num_batched_tokens": 2}, 120), ({"deterministic": True}, 100)]
)
def test_rows_go_on_while_prompts_come_one_by_one(
    what: dict[str, Any], first_ends_by: int, async_batching: bool
) -> None:
    config = replace(SchedulerConfig(256, 512, 128, 4, 2000), **what)
    core, done, steps = make_core(config, async_batching=async_batching), [], 0
    while not done:
        core.add([request(steps, [steps % 250, 1, 2], max_tokens=10)])
        done, steps = core.step(), steps + 1
        assert steps <= first_ends_by
    assert done[0].request_id == 0
    assert len(finish(core)) == steps - len(done)


def test_a_prefill_step_does_not_wait_for_more_than_fills_it() -> None:
    core = make_core(SchedulerConfig(32, 64, 128, 4, 2000), async_batching=False)
    core.add([request(i, [i, 1], max_tokens=3 + i) for i in range(32)])
    core.step()
    core.add([request(100 + i, [i] * 64, max_tokens=50) for i in range(8)])
    while len(core.scheduler.roster.waiting) == 8:
        core.step()
    assert core.scheduler.slots.num_free == 0  # the first place that was free was taken


def test_a_short_prompt_is_not_cut_for_the_last_tokens_of_a_step() -> None:
    core = make_core(SchedulerConfig(64, 640, 128, 4, 2000), async_batching=False)
    core.add([request(i, [i] * 9, max_tokens=3) for i in range(72)])
    core.step()
    assert core.stats().prompt_tokens == 64 * 9  # the places of the batch, not its tokens, were the bound
    core = make_core(SchedulerConfig(128, 640, 128, 4, 2000), async_batching=False)
    core.add([request(i, [i] * 9, max_tokens=3) for i in range(72)])
    core.step()
    assert core.stats().prompt_tokens == 639
    core = make_core(SchedulerConfig(128, 640, 1024, 4, 2000), async_batching=False)
    core.add([request(i, [i] * length, max_tokens=3) for i, length in enumerate((300, 341))])
    core.step()
    assert core.stats().prompt_tokens == 640  # one that is over half a step is cut


def steps_of(core: EngineCore) -> list[tuple[int, int]]:
    """(decode rows, prompt tokens) of each step until all is done."""
    launch, steps = core.runner.launch, []

    def note(plan: StepPlan, table: SlotTable) -> Any:
        steps.append((len(plan.decode), plan.num_prefill_tokens))
        return launch(plan, table)

    core.runner.launch = note  # type: ignore[method-assign]
    finish(core)
    return steps


def test_rows_that_come_one_by_one_are_gathered_until_a_step_is_worth_it() -> None:
    """The cache has room for about twenty: without gathering, each that ends lets in another, often alone."""
    core = make_core(SchedulerConfig(64, 60, 128, 4, 150), async_batching=False)
    core.add([request(i, [i % 90] * 16, max_tokens=5 + i % 23) for i in range(200)])
    prompts = [tokens for _, tokens in steps_of(core) if tokens]
    assert np.mean(prompts) > 37, prompts


def test_the_longest_rows_are_read_first() -> None:
    """What a device reads last should not take long; as all grow alike, the order is told once."""
    core = make_core(SchedulerConfig(32, 256, 128, 4, 2000))
    prompts = [[i % 90] * (3 + 17 * i % 41) for i in range(80)]
    core.add([request(i, prompt, max_tokens=20 + 2 * (i % 29)) for i, prompt in enumerate(prompts)])
    launch, changes, decodes = core.runner.launch, [], []

    def note(plan: StepPlan, table: SlotTable) -> Any:
        if len(plan.decode):
            lengths = table.length[plan.decode]
            assert (np.diff(lengths) <= 0).all(), lengths
            if decodes and set(plan.decode.tolist()) == set(decodes[-1].tolist()):
                changes.append(not np.array_equal(plan.decode, decodes[-1]))
            decodes.append(plan.decode)
        return launch(plan, table)

    core.runner.launch = note  # type: ignore[method-assign]
    finish(core)
    assert len(changes) > 10
    assert not any(changes)
