"""The engine in one process: scheduler, model runner, and the loop that keeps a step in flight."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence as SequenceOf
from typing import Protocol

import numpy as np
import torch

from runner.engine.device_times import DeviceTimes
from runner.engine.lane import NUM_BUFFERS, Launched
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.scheduler import Scheduler
from runner.engine.sequence import Prompt, Sequence
from runner.engine.slots import SlotTable
from runner.types import EngineRequest, EngineStats, FinishReason, Sample, SampleKey, TokenChunk

log = logging.getLogger(__name__)

_FEW_TOKENS = 256  # of prompts in a step: what such a step takes does not lie in them
_STREAM_STEPS = 4  # a message each step would cost more than the tokens that a late stop wastes


class Runner(Protocol):
    """What the loop needs of a model runner; the host benchmark stubs it."""

    times: DeviceTimes

    def launch(self, plan: StepPlan, table: SlotTable) -> Launched: ...

    def prepare(self, launched: Launched, num_rows: int) -> None: ...

    def results(self, launched: Launched) -> StepResults: ...

    def recover(self) -> None: ...


class EngineCore:
    """Takes requests, runs steps, returns finished samples.

    With ``async_batching`` step N + 1 is planned and launched before the results of step N are read, so that the
    device never waits for the host; without it each step is read before the next is planned. The parts and their
    order within a step are the same. Where the scheduler's configuration says so too, prompts are computed beside rows,
    which they join once they are done; near the end rows may wait for them (`Scheduler.schedule_first_prompts`).
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, async_batching: bool = True, prefix_caching: bool = True
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.async_batching = async_batching
        self._prefix_caching = prefix_caching
        self._in_flight: deque[Launched] = deque()
        self._prompts: deque[Launched] = deque()  # in flight beside these
        self._next_chunks = _STREAM_STEPS  # the step from which on those that stream are told again

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._in_flight or self._prompts)

    def add(self, requests: SequenceOf[EngineRequest]) -> list[Sample]:
        """Queues requests; returns the samples of those that can never run here, with the reason."""
        refused = []
        if not self.has_work:
            self.runner.times.pause()
        for request in requests:
            self.scheduler.stats.running_certain &= request.sampling.is_length_certain
            tokens = np.asarray(request.prompt_token_ids, dtype=np.int32)
            limit = min(len(tokens) + request.sampling.max_tokens, self.scheduler.config.max_model_len)
            prompt = Prompt(tokens, self._salt(request))
            for index, seed in zip(request.sample_indices, request.seeds, strict=True):
                sequence = Sequence(
                    request.request_id, index, prompt, request.sampling, seed, limit, stream=request.stream
                )
                reason = self.scheduler.refusal(sequence)
                if reason is None:
                    self.scheduler.add(sequence)
                else:
                    refused.append(Sample(request.request_id, index, [], FinishReason.ERROR, error=reason))
        return refused

    def abort(self, keys: set[SampleKey]) -> list[Sample]:
        return self.scheduler.roster.abort(keys)

    def drop_waiting(self) -> list[Sample]:
        """Ends what has not started."""
        return self.scheduler.roster.abort({sequence.key for sequence in self.scheduler.roster.waiting})

    def close_input(self) -> None:
        """No more requests will come for now."""
        self.scheduler.close_input()

    def take_chunks(self) -> list[TokenChunk]:
        """The tokens so far of samples that stream, every few steps; empty in between."""
        if self.scheduler.stats.steps < self._next_chunks:
            return []
        self._next_chunks = self.scheduler.stats.steps + _STREAM_STEPS
        return self.scheduler.roster.take_chunks()

    def step(self) -> list[Sample]:
        """Launches what comes next, if anything does, and returns what the steps before it finished."""
        if self.async_batching and self.scheduler.config.overlap_prefill:
            return self._step_beside()
        plan = self.scheduler.schedule_prompts() or self.scheduler.schedule_rows()
        if plan is None:
            return self._accept(self._in_flight)
        failed = self._launch(plan, self._in_flight)
        return failed + self._accept(self._in_flight, ahead=1 if self.async_batching else 0)

    def _step_beside(self) -> list[Sample]:
        """`step` where prompts have a lane of their own."""
        samples = self._accept(self._prompts, only_done=True)
        while len(self._prompts) < NUM_BUFFERS and (first := self.scheduler.schedule_first_prompts()) is not None:
            samples += self._launch(first, self._prompts)
        if any(prompts.plan.holds_rows for prompts in self._prompts):
            samples += self._accept(self._in_flight)
            return samples + self._accept(self._prompts, ahead=max(0, len(self._prompts) - 1))
        rows = self.scheduler.schedule_rows()
        if rows is not None:
            samples += self._launch(rows, self._in_flight)
        # After the rows, as it takes the host longer. With two in flight beside rows, some launches took it as long as
        # the device needs for a step.
        prompts = None if self._prompts else self.scheduler.schedule_prompts(beside=True)
        if prompts is not None:
            samples += self._launch(prompts, self._prompts)
        if rows is not None:
            return samples + self._accept(self._in_flight, ahead=1)
        return samples + self._accept(self._in_flight or self._prompts)

    def _launch(self, plan: StepPlan, queue: deque[Launched]) -> list[Sample]:
        """Launches a step; returns what ends when that fails."""
        try:
            queue.append(self.runner.launch(plan, self.scheduler.slots))
        except torch.OutOfMemoryError:
            return self._accept(self._in_flight) + self._accept(self._prompts) + self._shrink([plan])
        self.runner.prepare(queue[-1], self.scheduler.num_expected)
        return []

    def stats(self) -> EngineStats:
        """A snapshot; the object is kept up to date by later calls."""
        stats = self.scheduler.stats
        stats.num_waiting = len(self.scheduler.roster.waiting)
        stats.num_running = self.scheduler.roster.num_occupied
        stats.kv_blocks_used = self.scheduler.blocks.num_used
        running, slots = self.scheduler.roster.running, self.scheduler.slots
        stats.running_lengths = slots.num_outputs[running]
        stats.running_limits = slots.limit[running] - slots.prompt_length[running]
        times = self.runner.times
        stats.prefill_seconds, stats.decode_seconds, stats.idle_seconds = times.prefill, times.decode, times.idle
        return stats

    def check_drained(self) -> None:
        """Asserts that every block and slot is back once there is no work; cheap enough to stay on."""
        assert not self._in_flight
        assert not self._prompts
        self.scheduler.roster.check_drained()

    def _salt(self, request: EngineRequest) -> bytes | None:
        """Where the prompt's block hashes start: all prompts share, or only the samples of one request, or none."""
        if self.scheduler.config.deterministic:
            return None
        if self._prefix_caching:
            return b""
        return request.request_id.to_bytes(8, "little") if len(request.seeds) > 1 else None

    def _accept(self, queue: deque[Launched], ahead: int = 0, only_done: bool = False) -> list[Sample]:
        """Reads the results of the oldest steps of a queue until ``ahead`` of them, or one not done, are in flight."""
        samples: list[Sample] = []
        while len(queue) > ahead:
            try:
                if only_done and not queue[0].is_done:
                    break
                results = self.runner.results(queue[0])
            except torch.OutOfMemoryError:
                others = self._prompts if queue is self._in_flight else self._in_flight
                failed = [launched.plan for launched in (*queue, *others)]
                self._in_flight.clear()
                self._prompts.clear()
                return samples + self._shrink(failed)
            samples += self.scheduler.accept(queue.popleft().plan, results)
        return samples

    def _shrink(self, failed: list[StepPlan]) -> list[Sample]:
        """Out of memory: halves the prompts of a step or the batch, and computes the rows of all that failed again.

        A row that was alone is given up; for a step whose prompts have all been aborted nothing is halved.
        """
        self.runner.recover()
        scheduler = self.scheduler
        tokens, num_rows = failed[0].num_prefill_tokens, failed[0].num_seated
        samples: list[Sample] = []
        if tokens > _FEW_TOKENS:
            scheduler.max_prompt_tokens = tokens // 2
            log.warning(
                "The device ran out of memory; prompts are computed %d tokens at a time from now on", tokens // 2
            )
        elif failed[0].is_abandoned:
            log.warning("The device ran out of memory in a step that nobody waits for")
        elif num_rows == 1:
            reason = "out_of_memory: one sequence alone does not fit on the device"
            samples = scheduler.roster.give_up(failed[0].slots[0], reason)
        else:
            scheduler.room.max_running = min(scheduler.room.max_running, num_rows // 2)
            log.warning(
                "The device ran out of memory; at most %d sequences run from now on", scheduler.room.max_running
            )
        scheduler.fail(failed)
        return samples
