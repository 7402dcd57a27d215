"""Who is where: sequences wait, prefill, run, drain and leave, with their slots and blocks."""

from __future__ import annotations

from collections import deque

import numpy as np

from runner.engine.block_manager import BlockManager
from runner.engine.plan import StepPlan
from runner.engine.repetition import ends_in_cycle
from runner.engine.results import StepResults
from runner.engine.sampler import Status
from runner.engine.sequence import Sequence
from runner.engine.slots import SlotTable
from runner.types import FinishReason, Sample, SampleKey, TokenChunk

_LATEST_ANSWERS = 64  # how many the mean length of an answer is taken over, roughly


class Roster:
    """All sequences that the engine has accepted and not yet returned, and every way in which one moves on."""

    def __init__(self, num_slots: int, max_blocks: int, num_blocks: int) -> None:
        self.blocks = BlockManager(num_blocks)
        self.slots = SlotTable(num_slots, max_blocks)
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []  # admitted, prompt not yet scheduled to its end
        self.freed_early = False  # blocks came back that a prompt in flight may still write to
        self.running = np.empty(0, np.int32)  # slots that decode, oldest first
        self.mean_answer: float | None = None  # tokens of the latest answers that ended by themselves or their limit

    @property
    def num_occupied(self) -> int:
        """Slots that are not free: running, prefilling or draining."""
        return self.slots.num_slots - self.slots.num_free

    # --- in ---

    def seat(self, sequence: Sequence, hits: np.ndarray, num_fresh: int) -> int:
        """Gives the first waiting sequence a slot, the cached blocks ``hits`` and ``num_fresh`` new ones."""
        first = self.waiting.popleft()
        assert first is sequence
        slot = self.slots.occupy(sequence)
        self.blocks.reference(hits)
        self.slots.assign_blocks(slot, np.concatenate([hits, self.blocks.allocate(num_fresh)]))
        self.prefilling.append(sequence)
        return slot

    def start_running(self, slots: np.ndarray) -> None:
        """From the next step on they decode, but for those that have left in the meantime."""
        stayed = ~self.slots.gone[slots] & (self.slots.num_blocks[slots] > 0)
        self.running = np.concatenate([self.running, slots[stayed]])

    # --- out ---

    def accept(self, plan: StepPlan, results: StepResults) -> list[Sample]:
        """Takes the results of a step and returns the samples that ended."""
        table, slots = self.slots, plan.sampled
        table.in_flight[slots] -= 1
        tokens, status, logprobs = results.tokens, results.status, results.logprobs
        gone = table.gone[slots]
        if gone.any():
            live = ~gone
            slots, tokens, status = slots[live], tokens[live], status[live]
            logprobs = None if logprobs is None else logprobs[live]
        valid = status != Status.INVALID
        table.append(slots[valid], tokens[valid])
        if logprobs is not None:
            table.append_logprobs(slots[valid], logprobs[valid])
        full = table.prompt_length[slots] + table.num_outputs[slots] >= table.limit[slots]
        samples = []
        for i in np.flatnonzero((status != Status.RUNNING) | full):
            samples.append(self.end(int(slots[i]), *_verdict(int(status[i]), int(tokens[i]))))
        for slot in slots[table.watched[slots] > 0].tolist():
            if table.gone[slot]:
                continue
            if ends_in_cycle(table.made(slot), int(table.watched[slot])):
                samples.append(self.end(slot, FinishReason.REPETITION))
        if samples:
            self.close_ranks()
        self.settle(plan.sampled)
        return samples

    def abort(self, keys: set[SampleKey]) -> list[Sample]:
        """Ends these samples wherever they are."""
        samples = [_sample(s, s.outputs, FinishReason.ABORT) for s in self.waiting if s.key in keys]
        if samples:
            self.waiting = deque(s for s in self.waiting if s.key not in keys)
        for slot, sequence in enumerate(self.slots.sequences):
            if sequence is not None and sequence.key in keys and not self.slots.gone[slot]:
                samples.append(self.end(slot, FinishReason.ABORT))
        self.close_ranks()
        return samples

    def end(self, slot: int, reason: FinishReason, stop_reason: int | None = None, error: str | None = None) -> Sample:
        """The sequence of a slot is done; `close_ranks` must follow. Its slot is free once nothing is in flight."""
        sequence = self._of(slot)
        self._give_blocks_back(slot)
        self.slots.gone[slot] = True
        sample = _sample(sequence, self.slots.made(slot), reason, stop_reason, error)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._learn(len(sample.token_ids))
        if self.slots.in_flight[slot] == 0:
            self.slots.release(slot)
        return sample

    def give_up(self, slot: int, reason: str) -> list[Sample]:
        """Ends the sequence of a slot with an error, unless it has ended already."""
        if self.slots.gone[slot]:
            return []
        sample = self.end(slot, FinishReason.ERROR, error=reason)
        self.close_ranks()
        return [sample]

    def preempt(self, slot: int) -> None:
        """Takes a sequence's blocks; it waits, first in line, once its results in flight are in."""
        self._give_blocks_back(slot)
        self.close_ranks()
        if self.slots.in_flight[slot] == 0:
            self._requeue(slot)

    def fail_step(self, plan: StepPlan) -> None:
        """A launched step did not run: its sequences start again from what was accepted."""
        table = self.slots
        table.in_flight[plan.sampled] -= 1
        self.blocks.forget_all()
        for slot in plan.slots:
            if table.sequences[slot] is not None and not table.gone[slot] and table.num_blocks[slot]:
                self.preempt(slot)
        self.settle(np.array(plan.slots, np.int32))

    def close_ranks(self) -> None:
        """Takes those that have left out of the lists: once for all of them, before a slot is used again."""
        self.running = self.running[self.slots.num_blocks[self.running] > 0]
        self.prefilling = [s for s in self.prefilling if s.slot >= 0 and self.slots.num_blocks[s.slot]]

    def settle(self, slots: np.ndarray) -> None:
        """Drained slots whose sequence has left are handed on: ended ones freed, preempted ones queued again."""
        table = self.slots
        for slot in slots[(table.in_flight[slots] == 0) & (table.num_blocks[slots] == 0)].tolist():
            if table.sequences[slot] is None:
                continue
            if table.gone[slot]:
                table.release(slot)
            else:
                self._requeue(slot)

    def take_chunks(self) -> list[TokenChunk]:
        """The tokens accepted since the last call for the samples that stream and go on."""
        table, chunks = self.slots, []
        for slot in np.flatnonzero(table.streamed & ~table.gone).tolist():
            sequence = table.sequences[slot]
            if sequence is not None and table.num_outputs[slot] > sequence.num_streamed:
                chunks.append(TokenChunk(*sequence.key, table.made(slot)[sequence.num_streamed :].tolist()))
                sequence.num_streamed = int(table.num_outputs[slot])
        return chunks

    def check_drained(self) -> None:
        """Asserts that nothing leaked once nobody is left."""
        assert not self.waiting
        assert not self.prefilling
        assert not len(self.running)
        assert not self.num_occupied
        self.blocks.check_balance(used=0)

    def _learn(self, num_tokens: int) -> None:
        before = num_tokens if self.mean_answer is None else self.mean_answer
        self.mean_answer = before + (num_tokens - before) / _LATEST_ANSWERS

    def _give_blocks_back(self, slot: int) -> None:
        """At once: steps already launched run before any that use the blocks again, or `freed_early` says so."""
        self.freed_early |= slot not in self.running
        self.blocks.free(self.slots.take_blocks(slot))

    def _requeue(self, slot: int) -> None:
        sequence = self._of(slot)
        sequence.outputs = self.slots.made(slot).copy()
        sequence.num_scheduled = 0
        self.slots.release(slot)
        self.waiting.appendleft(sequence)

    def _of(self, slot: int) -> Sequence:
        sequence = self.slots.sequences[slot]
        assert sequence is not None
        return sequence


def _verdict(status: int, token: int) -> tuple[FinishReason, int | None, str | None]:
    if status == Status.INVALID:
        return FinishReason.ERROR, None, "nan_logits: the model gave no finite logits"
    if status == Status.STOP:
        return FinishReason.STOP, token, None
    return FinishReason.LENGTH, None, None


def _sample(
    sequence: Sequence,
    made: np.ndarray,
    reason: FinishReason,
    stop_reason: int | None = None,
    error: str | None = None,
) -> Sample:
    logprobs = sequence.returned_logprobs()
    return Sample(sequence.request_id, sequence.sample_index, made.tolist(), reason, stop_reason, error, logprobs)
