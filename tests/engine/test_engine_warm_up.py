"""The warm-up runs every kind of step and leaves nothing behind."""

from __future__ import annotations

import pytest
from test_engine_exact import MAX_TOKENS, expected_answer, finish, make_core, prompts_of, requests_for

from runner.engine.lane import Launched
from runner.engine.memory import FIRST_TOKENS
from runner.engine.plan import StepPlan
from runner.engine.sampler import Variant
from runner.engine.slots import SlotTable
from runner.engine.warm_up import warm_up

BLOCKS = {"num_kv_blocks": 256, "max_model_len": 256, "max_num_seqs": 24}


def test_a_warm_engine_answers_as_a_fresh_one() -> None:
    core = make_core("llama", **BLOCKS)
    warm_up(core.runner, core.scheduler.config)  # type: ignore[arg-type]
    times = core.runner.times
    assert (times.prefill, times.decode, times.idle) == (0, 0, 0)
    prompts = prompts_of(6, 12)
    core.add(requests_for(prompts))
    answers = finish(core)
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS), prompt


def test_all_kinds_of_steps_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", **BLOCKS)
    runner, launch = core.runner, core.runner.launch
    prefills, decodes = set(), set()

    def note(plan: StepPlan, table: SlotTable) -> Launched:
        if plan.chunks:
            prefills.add(any(chunk.start for chunk in plan.chunks))
        launched = launch(plan, table)
        if not plan.chunks:
            decodes.add((launched.variant, len(plan.decode) >= 16))
        return launched

    monkeypatch.setattr(runner, "launch", note)
    warm_up(runner, core.scheduler.config)  # type: ignore[arg-type]
    assert prefills == {False, True}
    assert decodes == {(variant, many) for variant in (Variant.GREEDY, Variant.PLAIN) for many in (False, True)}


@pytest.mark.parametrize(
    "sizes", [{"max_model_len": 2}, {"num_kv_blocks": 2, "max_model_len": 32}, {"max_num_seqs": 1}]
)
def test_small_engines_warm_up_too(sizes: dict[str, int]) -> None:
    core = make_core("llama", **{"max_num_batched_tokens": FIRST_TOKENS - 1, "max_model_len": 32, **sizes})
    warm_up(core.runner, core.scheduler.config)  # type: ignore[arg-type]
