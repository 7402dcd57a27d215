"""Prompts beside rows: the answers are right whichever lane is ahead, and no rule of their order can be left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_engine_exact import expected_answer, make_core, prompts_of

from runner.engine.device.cpu import CpuStream
from runner.engine.lane import Lane
from runner.engine.plan import StepPlan
from runner.engine.sampler.edits import EditPool
from runner.types import EngineRequest, FinishReason, Sample, SamplingParams

Plant = Callable[[Any, pytest.MonkeyPatch], None]
Between = Callable[[Any], list[Sample]]
LONGEST = 20


def lanes_core(**engine: object) -> Any:
    """Few blocks, and steps of few prompts: blocks change hands all the time, and prompts are mostly in flight."""
    few = {"max_num_seqs": 8, "block_size": 4, "num_kv_blocks": 20, "max_model_len": 80, "max_num_batched_tokens": 40}
    return make_core("llama", **{**few, "overlap_prefill": True, **engine})


def requests(more_tokens: int = 0, **sampling: Any) -> list[EngineRequest]:
    """Short prompts, some with a beginning in common, and answers of any length up to `LONGEST` + ``more_tokens``."""
    prompts = prompts_of(4, 30, longest=30)
    prompts = [prompts[0][:9] + prompt if i % 4 == 0 else prompt for i, prompt in enumerate(prompts)]
    lengths = (np.random.default_rng(4).integers(1, LONGEST + 1, len(prompts)) + more_tokens).tolist()
    params = [SamplingParams(max_tokens=length, temperature=0.0, **sampling) for length in lengths]
    return [EngineRequest(i, prompt, params[i], seeds=(i,)) for i, prompt in enumerate(prompts)]


def nothing(core: Any) -> list[Sample]:
    return []


def finish(core: Any, requests: list[EngineRequest], between: Between = nothing) -> dict[int, list[int]]:
    """The answers of those that ``between``, which is called before each step, does not end."""
    core.add(requests)
    answers = {}
    for _ in range(5000):
        if not core.has_work:
            core.check_drained()
            return answers
        for sample in between(core) + core.step():
            if sample.finish_reason is not FinishReason.ABORT:
                answers[sample.request_id] = sample.token_ids
    raise AssertionError("the engine makes no progress")


def generated(request: EngineRequest) -> list[int]:
    answer = expected_answer("llama", tuple(request.prompt_token_ids), LONGEST)
    return list(answer[: request.sampling.max_tokens])


def are_right(answers: dict[int, list[int]]) -> bool:
    by_id = {request.request_id: request for request in requests()}
    return all(tokens == generated(by_id[request_id]) for request_id, tokens in answers.items())


# --- which lane is ahead ---


def prompts_late(core: Any, patch: pytest.MonkeyPatch) -> None:
    """As the stand-in does it: prompts are computed when their results are read."""


def prompts_early(core: Any, patch: pytest.MonkeyPatch) -> None:
    """Prompts are computed at once, as far as the rules allow, and before the rows that are in flight."""
    runner = core.runner
    launch = runner.launch

    def early(plan: Any, table: Any) -> Any:
        launched = launch(plan, table)
        if plan.chunks:
            runner._device.prompts.drain()
        return launched

    patch.setattr(runner, "launch", early)


class _BlockedError(Exception):
    """A stream has to wait for one that is in the midst of its work."""


def rows_amid_a_growing_pool(core: Any, patch: pytest.MonkeyPatch) -> None:
    """Rows go on, as far as the rules allow, between a copy of the edits for prompts and its use."""
    rows, widened, run_to = core.runner._device.compute, EditPool._widened, CpuStream.run_to
    at_work: list[CpuStream] = []

    def stops_at_what_has_not_passed(self: CpuStream, position: int) -> None:
        if self in at_work and position >= self._done:
            raise _BlockedError
        at_work.append(self)
        run_to(self, position)
        at_work.remove(self)

    def grow(self: EditPool, pool: torch.Tensor | None) -> torch.Tensor | None:
        wider = widened(self, pool)
        while rows not in at_work and rows._queue:
            try:
                rows._queue[0]()
            except _BlockedError:
                break
            rows._queue.popleft()
            rows._done += 1
        return wider

    patch.setattr(CpuStream, "run_to", stops_at_what_has_not_passed)
    patch.setattr(EditPool, "_widened", grow)


def abort_prompts_in_flight(core: Any) -> list[Sample]:
    """Steps of prompts lose a sequence of every three before their results are in."""
    sequences = [chunk.sequence for launched in core._prompts for chunk in launched.plan.chunks]
    return core.abort({sequence.key for sequence in sequences if sequence.request_id % 3 == 0})


# --- rules that are left out ---


def prompts_do_not_wait_for_rows(core: Any, patch: pytest.MonkeyPatch) -> None:
    after = Lane.after
    patch.setattr(Lane, "after", lambda self, other: None if self is core.runner._prompts else after(self, other))


def rows_do_not_wait_for_prompts_that_left(core: Any, patch: pytest.MonkeyPatch) -> None:
    schedule = core.scheduler.schedule_rows

    def hasty() -> Any:
        plan = schedule()
        if plan is not None:
            plan.after_prompts = False
        return plan

    patch.setattr(core.scheduler, "schedule_rows", hasty)


def rows_do_not_wait_for_edits(core: Any, patch: pytest.MonkeyPatch) -> None:
    order = core.runner._order

    def forgets(*arguments: Any) -> None:
        order(*arguments)
        core.runner._has_loaded_edits = False

    patch.setattr(core.runner, "_order", forgets)


# --- with all rules ---


@pytest.mark.parametrize("ahead", [prompts_late, prompts_early])
@pytest.mark.parametrize("between", [nothing, abort_prompts_in_flight])
def test_answers_are_those_of_generate_whichever_lane_is_ahead(
    ahead: Plant, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, beside = lanes_core(), []
    ahead(core, monkeypatch)

    def watched(core: Any) -> list[Sample]:
        beside.append(bool(core._in_flight and core._prompts))
        return between(core)

    answers = finish(core, requests(), watched)
    assert are_right(answers)
    assert (len(answers) == 30) == (between is nothing)
    assert core.stats().preemptions
    assert core.stats().cached_tokens
    assert any(beside)


@pytest.mark.parametrize("ahead", [prompts_late, prompts_early])
def test_answers_are_those_of_generate_where_rows_wait_for_prompts(
    ahead: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, held = lanes_core(num_kv_blocks=400, max_num_seqs=32), []
    ahead(core, monkeypatch)
    alike = [replace(each, sampling=SamplingParams(max_tokens=LONGEST, temperature=0.0)) for each in requests()]

    def closed(core: Any) -> list[Sample]:
        core.close_input()
        held.append([prompts.plan.holds_rows for prompts in core._prompts])
        return []

    assert finish(core, alike, closed) == {each.request_id: generated(each) for each in alike}
    assert [True] in held


PENALISED = {"more_tokens": 40, "frequency_penalty": 2.0, "repetition_penalty": 5.0, "ignore_eos": True}
MANY_EDITS = {"num_kv_blocks": 400, "max_num_seqs": 16, "max_model_len": 128}


def in_turns() -> dict[int, list[int]]:
    return finish(lanes_core(overlap_prefill=False, **MANY_EDITS), requests(**PENALISED))


def test_no_token_goes_uncounted_while_the_pool_of_edits_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, core = in_turns(), lanes_core(**MANY_EDITS)
    rows_amid_a_growing_pool(core, monkeypatch)
    assert finish(core, requests(**PENALISED)) == expected


def test_steps_in_turns_are_never_two_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    core = lanes_core(async_batching=False)
    launch = core.runner.launch

    def alone(*arguments: Any) -> Any:
        assert not core._in_flight
        assert not core._prompts
        return launch(*arguments)

    monkeypatch.setattr(core.runner, "launch", alone)
    answers = finish(core, requests())
    assert len(answers) == 30
    assert are_right(answers)


@pytest.mark.parametrize("late", [False, True], ids=["at its launch", "when the device gets to it"])
@pytest.mark.parametrize("prompts", [False, True], ids=["rows", "prompts"])
def test_out_of_memory_in_one_lane_loses_nothing_of_either(
    prompts: bool, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, launch, failed = lanes_core(), Lane.launch, []

    def out_of_memory(data: torch.Tensor, out: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    def fails(self: Lane, plan: StepPlan, variant: Any, packet: Any, layout: Any, run: Any) -> Any:
        beside = core._in_flight if plan.chunks else core._prompts
        if bool(plan.chunks) == prompts and beside and len(plan.slots) > 1 and not failed:
            failed.append(plan)
            if not late:
                raise torch.OutOfMemoryError
            run = out_of_memory
        return launch(self, plan, variant, packet, layout, run)

    monkeypatch.setattr(Lane, "launch", fails)
    answers = finish(core, requests())
    assert core.scheduler.room.max_running < 8
    assert len(answers) == 30
    assert are_right(answers)


# --- without one of them ---


@pytest.mark.parametrize(
    ("ahead", "rule", "between"),
    [
        (prompts_early, prompts_do_not_wait_for_rows, nothing),
        (prompts_late, rows_do_not_wait_for_prompts_that_left, abort_prompts_in_flight),
    ],
)
def test_without_the_rule_answers_go_wrong(
    ahead: Plant, rule: Plant, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = lanes_core()
    ahead(core, monkeypatch)
    rule(core, monkeypatch)
    assert not are_right(finish(core, requests(), between))


def test_without_the_rule_tokens_go_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, core = in_turns(), lanes_core(**MANY_EDITS)
    rows_amid_a_growing_pool(core, monkeypatch)
    rows_do_not_wait_for_edits(core, monkeypatch)
    assert finish(core, requests(**PENALISED)) != expected


def test_prompts_leave_room_on_the_device_where_rows_decode_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    core = lanes_core(num_kv_blocks=80)
    device, schedule = core.runner._device, core.scheduler.schedule_prompts
    beside, rooms = [], []

    def scheduled(**how: bool) -> StepPlan | None:
        running = len(core.scheduler.roster.running)
        plan = schedule(**how)
        if plan is not None:
            beside.append(plan.beside_rows)
            assert plan.beside_rows == (running > 0)
        return plan

    leaving_room = device.leaving_room
    monkeypatch.setattr(core.scheduler, "schedule_prompts", scheduled)
    monkeypatch.setattr(device, "leaving_room", lambda: rooms.append(True) or leaving_room())
    finish(core, requests(more_tokens=9))
    assert beside[0] is False
    assert beside.count(True) == len(rooms) > 0


def test_all_time_is_counted_once_and_an_early_end_makes_rows_wait_once() -> None:
    core = lanes_core(num_kv_blocks=60)
    waits, steps = [], []
    launch, results = core.runner.launch, core.runner.results

    def noted(plan: StepPlan, table: Any) -> Any:
        waits.append(plan.after_prompts)
        return launch(plan, table)

    core.runner.launch = noted
    core.runner.results = lambda launched: steps.append(launched) or results(launched)

    aborted = []

    def between(core: Any) -> list[Sample]:
        flying = [chunk.sequence for launched in core._prompts for chunk in launched.plan.chunks]
        if aborted or not flying:
            return []
        aborted.append(flying[0].key)
        return core.abort({flying[0].key})

    finish(core, requests(), between)
    times = core.runner.times
    first = max(steps, key=lambda step: steps[-1].end.seconds_since(step.begin)).begin
    whole = max(step.end.seconds_since(first) for step in steps)
    assert times.prefill + times.decode + times.idle == pytest.approx(whole)
    assert aborted
    assert sum(waits) == 1
