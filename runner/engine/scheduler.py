"""Decides what each step does: who is admitted, who decodes, who is preempted, who is done.

The scheduler never sees the device. It plans a step assuming that every earlier one runs; results come back any
number of steps later through `accept`, and only then is an end-of-sequence known.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from runner.engine.block_manager import BlockManager
from runner.engine.plan import Chunk, StepPlan
from runner.engine.repetition import ends_in_cycle
from runner.engine.sequence import Sequence
from runner.engine.slots import SlotTable
from runner.types import EngineStats, FinishReason, Sample, SampleKey, TokenChunk

STATUS_STOP = 1
STATUS_NAN = 2
_MORE_BLOCK_UPDATES = 1 << 16


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int
    mixed_prefill: bool = False
    deterministic: bool = False

    @property
    def max_blocks_per_sequence(self) -> int:
        return -(-self.max_model_len // self.block_size)

    @property
    def max_block_updates(self) -> int:
        """Most (slot, index, block) triples in one step: bounds the packet, and so admissions behind long prefixes."""
        return self.max_num_seqs + self.max_blocks_per_sequence + _MORE_BLOCK_UPDATES


class Scheduler:
    """Owns all sequences that the engine has accepted and not yet returned."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.blocks = BlockManager(config.num_blocks)
        self.slots = SlotTable(config.max_num_seqs, config.max_blocks_per_sequence)
        self.stats = EngineStats(kv_blocks_total=config.num_blocks)
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []  # admitted, prompt not yet scheduled to its end
        self._running = np.empty(0, np.int32)  # slots that decode, oldest first
        self.max_running = config.max_num_seqs  # lowered when the device runs out of memory
        self._holding = False  # after a preemption nobody is admitted until blocks are plentiful again

    # --- what comes in ---

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def refusal(self, sequence: Sequence) -> str | None:
        """Why the sequence can never run here, or None."""
        prompt, config = len(sequence.prompt.token_ids), self.config
        if prompt == 0:
            return "the prompt has no tokens"
        if prompt >= config.max_model_len:
            return f"the prompt has {prompt} tokens; engine.max_model_len={config.max_model_len} has no room for more"
        needed = -(-sequence.limit // config.block_size)
        if needed > config.num_blocks:
            return (
                f"prompt + max_tokens needs {needed} KV blocks and the cache has {config.num_blocks}; "
                "lower sampling.max_tokens or give the cache more memory"
            )
        return None

    def abort(self, keys: set[SampleKey]) -> list[Sample]:
        """Ends these samples wherever they are."""
        ended = [s for s in self._waiting if s.key in keys]
        if ended:
            self._waiting = deque(s for s in self._waiting if s.key not in keys)
        samples = [self._sample(s, s.outputs, FinishReason.ABORT) for s in ended]
        for slot, sequence in enumerate(self.slots.sequences):
            if sequence is not None and sequence.key in keys and not self.slots.gone[slot]:
                samples.append(self._end(slot, FinishReason.ABORT))
        return samples

    def take_chunks(self) -> list[TokenChunk]:
        """The tokens accepted since the last call for the samples that stream and go on."""
        table, chunks = self.slots, []
        for slot in np.flatnonzero(table.streamed & ~table.gone).tolist():
            sequence = table.sequences[slot]
            if sequence is not None and table.num_outputs[slot] > sequence.num_streamed:
                chunks.append(TokenChunk(*sequence.key, table.made(slot)[sequence.num_streamed :].tolist()))
                sequence.num_streamed = int(table.num_outputs[slot])
        return chunks

    @property
    def has_work(self) -> bool:
        """True while any sequence waits, runs or drains."""
        return bool(self._waiting) or self.slots.num_free < self.slots.num_slots

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    # --- one step ---

    def schedule(self) -> StepPlan | None:
        """The next step, or None when nothing can be launched before more results are in."""
        plan = StepPlan(np.empty(0, np.int32))
        decodable = self._decodable()
        prefill = self._wants_prefill(len(decodable))
        if self.config.mixed_prefill or not prefill:
            self._plan_decode(plan, decodable)
        if prefill:
            self._plan_chunks(plan)
            if plan.is_empty:  # nobody could be admitted after all
                self._plan_decode(plan, self._decodable())
        if plan.is_empty:
            return None
        plan.seal()
        self.slots.in_flight[plan.sampled] += 1
        self.stats.steps += 1
        return plan

    def accept(self, plan: StepPlan, tokens: np.ndarray, status: np.ndarray) -> list[Sample]:
        """Takes the results of a step, [len(plan.sampled)] each, and returns the samples that ended."""
        table, slots = self.slots, plan.sampled
        table.in_flight[slots] -= 1
        live = ~table.gone[slots]
        slots, tokens, status = slots[live], tokens[live], status[live]
        bad = status == STATUS_NAN
        table.append(slots[~bad], tokens[~bad])
        self.stats.completion_tokens += int(len(slots) - bad.sum())
        full = table.prompt_length[slots] + table.num_outputs[slots] >= table.limit[slots]
        samples = []
        for i in np.flatnonzero((status != 0) | full):
            samples.append(self._end(int(slots[i]), *self._verdict(int(status[i]), int(tokens[i]))))
        for slot in slots[(table.watched[slots] > 0) & ~table.gone[slots]].tolist():
            if ends_in_cycle(table.made(slot), int(table.watched[slot])):
                samples.append(self._end(slot, FinishReason.REPETITION))
        self._settle(plan.sampled)
        return samples

    def fail_step(self, plan: StepPlan) -> None:
        """A launched step did not run: its sequences start again from what was accepted."""
        table = self.slots
        table.in_flight[plan.sampled] -= 1
        self.blocks.forget_all()
        for slot in plan.slots:
            if table.sequences[slot] is not None and not table.gone[slot] and table.num_blocks[slot]:
                self._preempt(slot)
        self._settle(np.array(plan.slots, np.int32))

    def give_up(self, slot: int, reason: str) -> list[Sample]:
        """Ends the sequence of a slot with an error, unless it has ended already."""
        return [] if self.slots.gone[slot] else [self._end(slot, FinishReason.ERROR, error=reason)]

    def check_drained(self) -> None:
        """Asserts that nothing leaked once no work is left."""
        assert not self.has_work and not self._prefilling and not len(self._running)
        self.blocks.check_balance(used=0)

    # --- decode ---

    def _decodable(self) -> np.ndarray:
        """Running slots with a token left to schedule: a step known to pass the limit is never planned."""
        rows = self._running
        return rows[self.slots.length[rows] + 1 < self.slots.limit[rows]]

    def _plan_decode(self, plan: StepPlan, rows: np.ndarray) -> None:
        table, size = self.slots, self.config.block_size
        rows = rows[: self.config.max_num_batched_tokens]
        needy = rows[table.length[rows] >= table.num_blocks[rows] * size]
        while len(needy) > self.blocks.num_available:
            self._preempt(int(self._newest()))
            rows = rows[np.isin(rows, self._running)]
            needy = needy[np.isin(needy, rows)]
        if len(needy):
            index, blocks = table.num_blocks[needy], self.blocks.allocate(len(needy))
            table.block_table[needy, index] = blocks
            table.num_blocks[needy] = index + 1
            plan.block_updates.append(np.stack([needy, index, blocks], axis=1))
        table.length[rows] += 1
        plan.decode = rows

    def _newest(self) -> int:
        return self._prefilling[-1].slot if self._prefilling else self._running[-1]

    def _preempt(self, slot: int) -> None:
        """Frees a sequence's blocks; it is computed again once its results in flight are in."""
        sequence = self.slots.sequences[slot]
        assert sequence is not None
        self._leave(slot)
        self._holding = True
        self.stats.preemptions += 1
        if self.slots.in_flight[slot] == 0:
            self._requeue(slot)

    def _requeue(self, slot: int) -> None:
        sequence = self.slots.sequences[slot]
        assert sequence is not None
        sequence.outputs = self.slots.made(slot).copy()
        sequence.num_scheduled = 0
        self.slots.release(slot)
        self._waiting.appendleft(sequence)

    # --- prefill ---

    def _wants_prefill(self, num_decodable: int) -> bool:
        if self._prefilling:
            return True
        ready = min(len(self._waiting), self._num_admissible)
        if ready == 0:
            return False
        if num_decodable == 0 or self.config.mixed_prefill:
            return True
        # Hysteresis: a prefill step interrupts all running rows, so it waits until it is worth one.
        return ready >= min(len(self._waiting), max(1, self.max_running // 16))

    @property
    def _num_admissible(self) -> int:
        occupied = self.slots.num_slots - self.slots.num_free
        return max(0, min(self.slots.num_free, self.max_running - occupied))

    def _plan_chunks(self, plan: StepPlan) -> None:
        budget = self.config.max_num_batched_tokens - len(plan.decode)
        while budget > 0:
            if not self._prefilling and not self._admit(plan):
                break
            sequence = self._prefilling[0]
            left = sequence.num_prefill_tokens - sequence.num_scheduled
            count = min(left, budget)
            chunk = Chunk(sequence, sequence.slot, sequence.num_scheduled, count, final=count == left)
            self._schedule_chunk(plan, chunk)
            budget -= count
            if self.config.deterministic:
                break  # one prompt a step, cut at fixed places: its arithmetic depends on nothing else

    def _schedule_chunk(self, plan: StepPlan, chunk: Chunk) -> None:
        sequence, size = chunk.sequence, self.config.block_size
        end = chunk.start + chunk.count
        for index in range(chunk.start // size, min(end // size, len(sequence.prompt.chain(size)))):
            block = int(self.slots.block_table[chunk.slot, index])
            self.blocks.register(block, sequence.prompt.chain(size)[index])
        sequence.num_scheduled = end
        self.slots.length[chunk.slot] = end
        self.stats.prompt_tokens += chunk.count
        plan.chunks.append(chunk)
        if chunk.final:
            self._prefilling.pop(0)
            self._running = np.append(self._running, np.int32(chunk.slot))

    def _admit(self, plan: StepPlan) -> bool:
        """Moves the first waiting sequence into a slot with blocks for its prompt, if there is room."""
        if not self._waiting or self._num_admissible == 0:
            return False
        sequence, size = self._waiting[0], self.config.block_size
        num_tokens = sequence.num_prefill_tokens
        hits = self.blocks.lookup(sequence.prompt.chain(size)[: (num_tokens - 1) // size])
        wanted = sequence.limit if self.config.deterministic else num_tokens
        missing = -(-wanted // size) - len(hits)
        if plan.num_block_updates + len(hits) + missing > self.config.max_block_updates - self.config.max_num_seqs:
            return False
        if not self._has_room(missing + self.blocks.num_idle(hits)):
            return False
        self._waiting.popleft()
        slot = self.slots.occupy(sequence)
        self.blocks.reference(hits)
        self.slots.assign_blocks(slot, np.concatenate([hits, self.blocks.allocate(missing)]))
        sequence.num_scheduled = len(hits) * size
        self.stats.cached_tokens += sequence.num_scheduled
        self._prefilling.append(sequence)
        plan.admitted.append(sequence)
        plan.block_updates.append(self._table_rows(slot))
        return True

    def _has_room(self, num_blocks: int) -> bool:
        available = self.blocks.num_available
        occupied = self.slots.num_slots - self.slots.num_free
        if not occupied:
            self._holding = False
            return available >= num_blocks
        if self._holding and available < num_blocks + self.blocks.num_blocks // 10:
            return False
        self._holding = False
        # A running row needs a new block every block_size steps: leave one for each, within reason.
        return available >= num_blocks + min(occupied, self.blocks.num_blocks // 50)

    def _table_rows(self, slot: int) -> np.ndarray:
        count = int(self.slots.num_blocks[slot])
        rows = np.empty((count, 3), np.int32)
        rows[:, 0], rows[:, 1], rows[:, 2] = slot, np.arange(count), self.slots.block_table[slot, :count]
        return rows

    # --- the end of a sequence ---

    def _verdict(self, status: int, token: int) -> tuple[FinishReason, int | None, str | None]:
        if status == STATUS_NAN:
            return FinishReason.ERROR, None, "nan_logits: the model gave no finite logits"
        if status == STATUS_STOP:
            return FinishReason.STOP, token, None
        return FinishReason.LENGTH, None, None

    def _end(self, slot: int, reason: FinishReason, stop_reason: int | None = None, error: str | None = None) -> Sample:
        sequence = self.slots.sequences[slot]
        assert sequence is not None
        self._leave(slot)
        self.slots.gone[slot] = True
        sample = self._sample(sequence, self.slots.made(slot), reason, stop_reason, error)
        if self.slots.in_flight[slot] == 0:
            self.slots.release(slot)
        return sample

    def _leave(self, slot: int) -> None:
        """Gives the blocks back now: steps already launched run before any that reuse them."""
        self.blocks.free(self.slots.take_blocks(slot))
        self._running = self._running[self._running != slot]
        self._prefilling = [s for s in self._prefilling if s.slot != slot]

    def _settle(self, slots: np.ndarray) -> None:
        """Drained slots whose sequence has left are handed on: ended ones freed, preempted ones queued again."""
        table = self.slots
        for slot in slots[(table.in_flight[slots] == 0) & (table.num_blocks[slots] == 0)].tolist():
            if table.sequences[slot] is None:
                continue
            if table.gone[slot]:
                table.release(slot)
            else:
                self._requeue(slot)

    @staticmethod
    def _sample(
        sequence: Sequence,
        made: np.ndarray,
        reason: FinishReason,
        stop_reason: int | None = None,
        error: str | None = None,
    ) -> Sample:
        return Sample(sequence.request_id, sequence.sample_index, made.tolist(), reason, stop_reason, error)
