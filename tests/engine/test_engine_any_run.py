"""The loop and the scheduler without a model: every answer is right, whatever the configuration and the arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from stub_runner import stub_answer
from test_engine_core import finish, make_core, request

from runner.engine.core import EngineCore
from runner.engine.plan import StepPlan
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable
from runner.types import FinishReason

KINDS: list[dict[str, bool]] = [{}, {"overlap_prefill": True}, {"deterministic": True}]


@dataclass(frozen=True)
class Run:
    """What comes to an engine, and when. All steps are counted from the first."""

    config: SchedulerConfig
    requests: list[tuple[int, list[int], int, int]]  # each: arrives at this step, prompt, max_tokens, n
    async_batching: bool
    prefix_caching: bool
    stop_below: int
    aborts: dict[int, int]  # by step: this request ends, wherever it is; one whose prompt is in flight goes first
    closed_at: int  # the input is said to be closed before this step, whether or not more comes


@st.composite
def runs(draw: st.DrawFn, roomy: bool = False) -> Run:
    """``roomy``: prompts beside rows, which come at the beginning and all find places and blocks."""
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    max_model_len = draw(st.integers(8, 64))
    fewest = -(-max_model_len // block_size)
    config = SchedulerConfig(
        max_num_seqs=48 if roomy else draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(4, 80)),
        max_model_len=max_model_len,
        block_size=block_size,
        num_blocks=draw(st.integers(fewest, 4 * fewest)) * (20 if roomy else 1),
        **({"overlap_prefill": True} if roomy else draw(st.sampled_from(KINDS))),
    )
    head = draw(st.lists(st.integers(0, 3), max_size=20))
    max_tokens = draw(st.one_of(st.just(st.integers(1, 24)), st.integers(1, 24).map(st.just)))  # any, or all the same
    requests = st.lists(
        st.tuples(
            st.integers(0, 2 if roomy else 12),
            st.lists(st.integers(0, 3), min_size=1, max_size=max_model_len // 2).map(
                lambda own: (head + own)[: max_model_len - 1]
            ),
            max_tokens,
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=14,
    )
    return Run(
        config=config,
        requests=draw(requests),
        async_batching=roomy or draw(st.booleans()),
        prefix_caching=draw(st.booleans()),
        stop_below=draw(st.sampled_from([0, 100, 400])),
        aborts=draw(st.dictionaries(st.integers(0, 13), st.integers(0, 13), max_size=6)),
        closed_at=draw(st.integers(0, 5 if roomy else 16)),
    )


def check_the_order_of_launches(core: EngineCore) -> None:
    """Rows that were to wait for prompts wait, and prompts that leave room for rows are alone on their lane."""
    launch = core.runner.launch

    def checked(plan: StepPlan, table: SlotTable) -> Any:
        held = [prompts.plan.holds_rows for prompts in core._prompts]
        assert plan.chunks or not any(held)
        assert not (plan.beside_rows and held)
        event(f"rows wait for prompts beside which they could run: {core.async_batching and plan.holds_rows}")
        return launch(plan, table)

    if core.scheduler.config.overlap_prefill:
        core.runner.launch = checked  # type: ignore[method-assign]


@settings(max_examples=300, deadline=None)
@given(runs())
def test_every_answer_is_right(run: Run) -> None:
    check(run)


@settings(max_examples=200, deadline=None)
@given(runs(roomy=True))
def test_every_answer_is_right_where_rows_wait_for_prompts(run: Run) -> None:
    check(run)


def check(run: Run) -> None:
    config, stop_below = run.config, run.stop_below
    core = make_core(config, stop_below, async_batching=run.async_batching, prefix_caching=run.prefix_caching)
    check_the_order_of_launches(core)
    samples, aborted, arrivals = [], set(), sorted(enumerate(run.requests), key=lambda item: item[1][0])
    for step in range(14):
        due = [item for item in arrivals if item[1][0] == step]
        samples += core.add([request(i, prompt, n, max_tokens=m) for i, (_, prompt, m, n) in due])
        if step in run.aborts:
            chunks = [chunk for launched in core._prompts for chunk in launched.plan.chunks]
            victim = chunks[0].sequence.request_id if chunks else run.aborts[step]
            aborted.add(victim)
            samples += core.abort({(victim, index) for index in range(3)})
        if step == run.closed_at:
            core.close_input()
        samples += core.step()
    samples += finish(core)
    expected = {
        (i, index): stub_answer(prompt, min(m, config.max_model_len - len(prompt)), stop_below)
        for i, (_, prompt, m, n) in enumerate(run.requests)
        for index in range(n)
    }
    assert sorted((s.request_id, s.sample_index) for s in samples) == sorted(expected)
    for sample in samples:
        answer = expected[sample.request_id, sample.sample_index]
        if sample.finish_reason is FinishReason.ABORT:
            assert sample.request_id in aborted
            assert sample.token_ids == answer[: len(sample.token_ids)]
        else:
            assert sample.token_ids == answer
            assert sample.finish_reason is (FinishReason.STOP if answer[-1] < stop_below else FinishReason.LENGTH)
