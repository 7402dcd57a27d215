"""Races planted one by one into the real model runner: the stand-in stops each at the call that makes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_engine_exact import make_core, prompts_of, requests_for

from runner.engine import lane
from runner.engine.core import EngineCore
from runner.engine.device import RaceError
from runner.engine.device.cpu import CpuEvent, CpuStream
from runner.engine.lane import Launched


def run(core: EngineCore) -> None:
    core.add(requests_for(prompts_of(3, 12)))
    while core.has_work:
        core.step()


def one_buffer(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
    """Step N + 1 is written where the copy of step N may still read."""
    patch.setattr(lane, "NUM_BUFFERS", 1)


def no_wait_for_results(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
    """The host reads tokens that may not have arrived."""
    patch.setattr(CpuEvent, "synchronize", lambda self: None)


def waits_for_compute_alone(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
    """The host waits for the step, but not for the copy of its tokens."""
    runner: Any = core.runner
    launch = runner.launch

    def early(*args: Any) -> Launched:
        launched = launch(*args)
        launched.event = launched.end
        return launched

    patch.setattr(runner, "launch", early)


def streams_do_not_wait(name: str) -> Any:
    def plant(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
        wait = CpuStream.wait
        patch.setattr(CpuStream, "wait", lambda self, event: None if self.name == name else wait(self, event))

    return plant


def three_in_flight(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
    """Two buffers serve one step ahead, not two."""
    accept = core._accept
    patch.setattr(core, "_accept", lambda queue, ahead=0, **named: accept(queue, 2 * ahead, **named))


def late_packet(core: EngineCore, patch: pytest.MonkeyPatch) -> None:
    """The packet is touched again after its copy was queued."""
    runner: Any = core.runner
    launch = runner.launch

    def again(*args: Any) -> Launched:
        launched = launch(*args)
        runner._rows._host_in[runner._rows._parity].host_write()
        return launched

    patch.setattr(runner, "launch", again)


RACES = {
    "one buffer": one_buffer,
    "no wait for results": no_wait_for_results,
    "waits for compute alone": waits_for_compute_alone,
    "compute does not wait for H2D": streams_do_not_wait("compute"),
    "D2H does not wait for compute": streams_do_not_wait("d2h"),
    "three in flight": three_in_flight,
    "packet rewritten": late_packet,
}


@pytest.mark.parametrize("race", RACES)
def test_each_race_is_found_in_the_model_runner(race: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", max_num_seqs=4, num_kv_blocks=200)
    RACES[race](core, monkeypatch)
    with pytest.raises(RaceError):
        run(core)


def test_without_a_race_the_same_run_is_silent() -> None:
    core = make_core("llama", max_num_seqs=4, num_kv_blocks=200)
    run(core)
    core.check_drained()


def test_a_slot_handed_out_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old sequence ended, but a launched step still brings a token for it."""
    core = make_core("llama", max_num_seqs=1, num_kv_blocks=200)
    table = type(core.scheduler.slots)
    occupy = table.occupy

    def eager(self: Any, sequence: Any) -> int:
        self._free = self._free or [0]
        return occupy(self, sequence)

    monkeypatch.setattr(table, "num_free", property(lambda self: 1 if self.gone.any() else len(self._free)))
    monkeypatch.setattr(table, "occupy", eager)
    with pytest.raises(AssertionError, match="in flight"):
        run(core)


def test_out_of_memory_on_the_device_shrinks_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step fails when the device gets to it, with the next one already queued behind it."""
    core, answers = make_core("llama", max_num_seqs=8, num_kv_blocks=200), {}
    runner: Any = core.runner
    forward = runner._forward

    def fails(token_ids: torch.Tensor, positions: torch.Tensor, batch: Any, *rest: Any) -> torch.Tensor:
        if batch.num_decode > 4:
            raise torch.OutOfMemoryError
        return forward(token_ids, positions, batch, *rest)

    monkeypatch.setattr(runner, "_forward", fails)
    core.add(requests_for(prompts_of(3, 12)))
    while core.has_work:
        answers |= {sample.request_id: sample.token_ids for sample in core.step()}
    core.check_drained()
    whole = make_core("llama", max_num_seqs=8, num_kv_blocks=200)
    whole.add(requests_for(prompts_of(3, 12)))
    expected = {}
    while whole.has_work:
        expected |= {sample.request_id: sample.token_ids for sample in whole.step()}
    assert answers == expected
    assert core.scheduler.room.max_running <= 4


def test_a_row_with_nan_logits_ends_with_an_error_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", max_num_seqs=4, num_kv_blocks=200)
    runner: Any = core.runner
    forward = runner._forward

    def poisoned(token_ids: torch.Tensor, positions: torch.Tensor, batch: Any, *rest: Any) -> torch.Tensor:
        logits = forward(token_ids, positions, batch, *rest).clone()
        if batch.num_decode:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(runner, "_forward", poisoned)
    core.add(requests_for(prompts_of(3, 4)))
    samples = []
    while core.has_work:
        samples += core.step()
    core.check_drained()
    assert len(samples) == 4
    assert all(sample.error and sample.error.startswith("nan_logits") for sample in samples if sample.error)
    assert any(sample.error for sample in samples)
