"""The loop and the scheduler without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stub_runner import StubLaunched, StubRunner, stub_answer

from runner.engine.core import EngineCore
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.types import EngineRequest, FinishReason, Sample, SamplingParams


def make_core(config: SchedulerConfig, stop_below: int = 0, **kwargs: bool) -> EngineCore:
    runner = StubRunner(config.block_size, stop_below, late_prompts=config.overlap_prefill)
    return EngineCore(Scheduler(config), runner, **kwargs)


def request(request_id: int, prompt: list[int], n: int = 1, **sampling: object) -> EngineRequest:
    params = SamplingParams(n=n, **sampling)
    return EngineRequest(request_id, prompt, params, seeds=tuple(range(n)), sample_indices=tuple(range(n)))


def finish(core: EngineCore, limit: int = 20_000) -> list[Sample]:
    samples = []
    for _ in range(limit):
        if not core.has_work:
            core.check_drained()
            return samples
        samples += core.step()
    raise AssertionError("the engine makes no progress")


CONFIG = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=128, block_size=4, num_blocks=64)


def test_preemption_recomputes_and_loses_nothing() -> None:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64, block_size=4, num_blocks=20)
    core = make_core(config)
    core.add([request(i, [i, i + 1, i + 2], max_tokens=40) for i in range(4)])
    samples = finish(core)
    assert core.stats().preemptions > 0
    assert all(s.token_ids == stub_answer([s.request_id + k for k in range(3)], 40, 0) for s in samples)


def test_deterministic_never_preempts() -> None:
    config = SchedulerConfig(4, 64, 64, 4, 20, deterministic=True)
    core = make_core(config)
    core.add([request(i, [i, i + 1, i + 2], max_tokens=40) for i in range(4)])
    assert len(finish(core)) == 4
    assert core.stats().preemptions == 0


def test_shared_prefix_is_computed_once() -> None:
    core = make_core(CONFIG)
    head = list(range(20))
    core.add([request(i, [*head, 50 + i], max_tokens=4) for i in range(6)])
    finish(core)
    assert core.stats().cached_tokens == 5 * 20
    assert core.stats().prompt_tokens == 21 + 5


def test_samples_of_a_request_share_its_prompt_without_prefix_caching() -> None:
    core = make_core(CONFIG, prefix_caching=False)
    core.add([request(0, list(range(9)), n=3, max_tokens=4), request(1, list(range(9)), max_tokens=4)])
    finish(core)
    assert core.stats().cached_tokens == 2 * 8


def test_rows_that_can_never_fit_are_refused_with_a_reason() -> None:
    core = make_core(SchedulerConfig(4, 64, 128, 4, num_blocks=8))
    refused = core.add(
        [request(0, [1] * 128), request(1, [1] * 20, max_tokens=20), request(2, []), request(3, [1] * 9)]
    )
    assert [s.request_id for s in refused] == [0, 1, 2, 3]
    assert "max_model_len=128" in refused[0].error
    assert "KV blocks" in refused[1].error
    assert not core.has_work


@pytest.mark.parametrize("async_batching", [True, False])
def test_abort_ends_waiting_and_running_sequences(async_batching: bool) -> None:
    core = make_core(CONFIG, async_batching=async_batching)
    core.add([request(i, [i, 1], max_tokens=50) for i in range(6)])
    for _ in range(3):
        core.step()
    aborted = core.abort({(0, 0), (5, 0)})
    assert {(s.request_id, s.finish_reason) for s in aborted} == {(0, FinishReason.ABORT), (5, FinishReason.ABORT)}
    made = {s.request_id: s.token_ids for s in aborted}
    assert made[0] == stub_answer([0, 1], 50, 0)[: len(made[0])]
    assert {s.request_id for s in finish(core)} == {1, 2, 3, 4}


def test_late_finish_costs_one_token_and_is_dropped() -> None:
    core = make_core(CONFIG, stop_below=997)
    core.add([request(0, [5], max_tokens=50)])
    assert core.step() == []  # prefill launched
    (sample,) = core.step()  # its token ends the sequence, while one more step is already in flight
    assert len(sample.token_ids) == 1
    assert core.has_work
    assert core.step() == []
    core.check_drained()


def test_nothing_is_scheduled_past_max_tokens() -> None:
    core = make_core(CONFIG)
    core.add([request(0, [5, 6], max_tokens=3)])
    finish(core)
    assert core.stats().steps == 3


def test_those_that_stream_are_told_every_few_steps_however_many_a_call_launches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One step of prompts and one of rows at each call: after the first, their number is always odd."""
    monkeypatch.setattr(StubLaunched, "is_done", True)
    core = make_core(SchedulerConfig(8, 64, 256, 4, 400, overlap_prefill=True))
    core.add([replace(request(0, [5, 6], max_tokens=200), stream=True)])
    told, silence = 0, [0]
    for i in range(1, 60):
        core.step()
        core.add([request(i, [i, 7], max_tokens=1)])
        chunks = core.take_chunks()
        told += sum(len(chunk.token_ids) for chunk in chunks)
        silence.append(0 if chunks else silence[-1] + 1)
    assert told > 50
    assert max(silence) < 6


def test_repetition_stop() -> None:
    class Cycling(StubRunner):
        def launch(self, plan, table):  # type: ignore[no-untyped-def]
            launched = super().launch(plan, table)
            launched.tokens = np.array([int(table.length[s]) % 3 for s in plan.sampled], np.int32)
            return launched

    core = EngineCore(Scheduler(CONFIG), Cycling(4))
    core.add([request(0, [1], max_tokens=100, repetition_stop=12)])
    (sample,) = finish(core)
    assert sample.finish_reason is FinishReason.REPETITION
    assert len(sample.token_ids) == 12


def test_streamed_chunks_are_the_sample_without_its_end() -> None:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64, block_size=4, num_blocks=20)
    core = make_core(config)
    core.add([replace(request(i, [i, i + 1, i + 2], max_tokens=40), stream=i != 3) for i in range(4)])
    samples, streamed = [], {i: [] for i in range(4)}
    while core.has_work:
        samples += core.step()
        for chunk in core.take_chunks():
            streamed[chunk.request_id] += chunk.token_ids
    assert core.stats().preemptions > 0
    for sample in samples:
        count = len(streamed[sample.request_id])
        assert streamed[sample.request_id] == sample.token_ids[:count]
        assert (count > 30) == (sample.request_id != 3)


def test_a_slot_is_not_handed_out_while_results_for_it_are_in_flight() -> None:
    """Planted: a slot released as soon as its sequence ends, while one more step still samples for it."""
    core = make_core(CONFIG, stop_below=997)
    core.add([request(0, [5], max_tokens=50)])
    core.step()
    core.step()
    with pytest.raises(AssertionError, match="in flight"):
        core.scheduler.slots.release(0)


def test_counters_tell_whether_only_their_limits_end_the_requests() -> None:
    core = make_core(SchedulerConfig(4, 64, 64, 4, 64), async_batching=False)
    core.add(
        [request(0, [1, 2, 3], max_tokens=10, ignore_eos=True), request(1, [1] * 60, max_tokens=10, ignore_eos=True)]
    )
    for _ in range(2):
        core.step()
    assert list(core.stats().running_limits) == [10, 4]  # the second has 64 tokens of context
    assert core.stats().running_certain
    core.add([request(2, [4], max_tokens=3, ignore_eos=True, stop_token_ids=(9,))])
    assert not core.stats().running_certain


def test_counters_tell_what_was_read_and_how_long_the_running_answers_are() -> None:
    core = make_core(SchedulerConfig(4, 64, 64, 4, 64), async_batching=False)
    core.add([request(0, [1, 2, 3], max_tokens=10), request(1, [4], max_tokens=3)])
    for _ in range(3):  # both prompts, then two decode steps over 4 and 5 tokens, and over 2 and 3
        core.step()
    assert core.stats().kv_tokens_read == 4 + 5 + 2 + 3
    assert list(core.stats().running_lengths) == [3]
    assert list(core.stats().running_limits) == [10]
    finish(core)
    assert list(core.stats().running_lengths) == []
