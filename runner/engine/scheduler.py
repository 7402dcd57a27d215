"""Decides what each step does: who is admitted, who decodes, who is preempted.

The scheduler never sees the device. It plans a step assuming that every earlier one runs; results come back any
number of steps later, and only then is an end-of-sequence known.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice

import numpy as np

from runner.engine.plan import Chunk, StepPlan
from runner.engine.results import StepResults
from runner.engine.room import Room
from runner.engine.roster import Roster
from runner.engine.sampler import stop_ids_of
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.sequence import Sequence
from runner.engine.shared_reads import SharedReads
from runner.limits import MAX_STOP_IDS
from runner.types import EngineStats, Sample

_MOST_PROMPT_STEPS = 8  # in a row while rows could decode


class Scheduler:
    """Plans steps over a roster of sequences."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.roster = Roster(config.max_num_seqs, config.max_blocks_per_sequence, config.num_blocks)
        self.blocks, self.slots = self.roster.blocks, self.roster.slots
        self._shared_reads = SharedReads(self.slots, config.block_size) if config.share_reads else None
        self.stats = EngineStats(kv_blocks_total=config.num_blocks)
        self.room = Room(config, self.roster)
        self.max_prompt_tokens = config.max_num_batched_tokens  # in one step; lowered when memory runs out
        self._prompt_steps = 0  # since the last step of rows, where they take turns
        self._input_closed = False

    def add(self, sequence: Sequence) -> None:
        self._input_closed = False
        self.roster.waiting.append(sequence)

    def refusal(self, sequence: Sequence) -> str | None:
        """Why the sequence can never run here, or None."""
        prompt, config = len(sequence.prompt.token_ids), self.config
        if prompt == 0:
            return "the prompt has no tokens"
        if prompt >= config.max_model_len:
            return f"the prompt has {prompt} tokens; engine.max_model_len={config.max_model_len} has no room for more"
        if len(stop_ids_of(sequence.sampling, config.eos_ids)) > MAX_STOP_IDS:
            return f"sampling.stop_token_ids has over {MAX_STOP_IDS} ids with the model's own {len(config.eos_ids)}"
        needed = -(-sequence.limit // config.block_size)
        if needed > config.num_blocks:
            return (
                f"prompt + max_tokens needs {needed} KV blocks and the cache has {config.num_blocks}; "
                "lower sampling.max_tokens or give the cache more memory"
            )
        return None

    def close_input(self) -> None:
        """No more will come: orders those that wait so that the longest expected start first and the tail is short.

        What is expected is the most that a sequence may still do; the order among equals stays.
        """
        self._input_closed = True
        self.roster.waiting = deque(sorted(self.roster.waiting, key=lambda s: s.num_prefill_tokens - s.limit))

    @property
    def has_work(self) -> bool:
        """True while any sequence waits, runs or drains."""
        return bool(self.roster.waiting) or self.roster.num_occupied > 0

    @property
    def num_expected(self) -> int:
        """Most rows that decode at once, as far as is known now."""
        return min(self.room.max_running, self.roster.num_occupied + len(self.roster.waiting))

    def schedule_first_prompts(self) -> StepPlan | None:
        """The next step of prompts if rows should wait for it, even where both can be computed beside one another.

        Beside prompts rows get ahead of those whose prompts come last, which then end alone in steps of few rows. That
        costs more than it gains when nothing is to come after them, unless rows that run now may last longer anyway.
        """
        return self._prompts_step(beside=False) if self._are_prompts_first() else None

    def schedule_prompts(self, beside: bool = False) -> StepPlan | None:
        """The next step of prompts, or None when there are none to compute now; ``beside`` rows, or rows wait."""
        return self._prompts_step(beside) if self._has_prompts else None

    def _prompts_step(self, beside: bool) -> StepPlan | None:
        num_decodable = len(self._decodable())
        plan = StepPlan(beside_rows=beside and num_decodable > 0, holds_rows=not beside)
        if self._wants_prefill(num_decodable):
            self._plan_chunks(plan, self.max_prompt_tokens)
        return self._launched(plan)

    @property
    def _has_prompts(self) -> bool:
        return bool(self.roster.waiting or self.roster.prefilling)

    def _are_prompts_first(self) -> bool:
        if not (self._input_closed and self._has_prompts) or len(self.roster.waiting) > self.room.num_places:
            return False
        coming, rows = [*self.roster.prefilling, *islice(self.roster.waiting, 1)], self._decodable()
        if not len(rows):
            return False
        longest = max(sequence.limit - sequence.num_prefill_tokens for sequence in coming)
        if (self.slots.limit[rows] - self.slots.length[rows]).max() > longest:
            return False
        num_fitting, _ = self.room.admissible(math.inf)
        return num_fitting == len(self.roster.waiting)

    def schedule_rows(self) -> StepPlan | None:
        """The next step of rows that decode, or None when no row can before more results are in."""
        plan, self._prompt_steps = StepPlan(), 0
        self._plan_decode(plan, self._decodable())
        return self._launched(plan)

    def _launched(self, plan: StepPlan) -> StepPlan | None:
        if plan.is_empty:
            return None
        plan.seal()
        plan.num_seated = self.roster.num_occupied
        self.slots.in_flight[plan.sampled] += 1
        self.stats.steps += 1
        if plan.chunks and not self.config.overlap_prefill:
            self._start_running(plan)
            all_in = not self.roster.waiting and not self.roster.prefilling
            self._prompt_steps = _MOST_PROMPT_STEPS if all_in else self._prompt_steps + 1
        return plan

    def _start_running(self, plan: StepPlan) -> None:
        """After prompts are launched or, where they have a lane of their own, once they are computed."""
        self.roster.start_running(plan.sampled)
        if self._shared_reads is not None:
            self._shared_reads.starts(plan.sampled)

    def accept(self, plan: StepPlan, results: StepResults) -> list[Sample]:
        """Takes the results of a step and returns the samples that ended."""
        if plan.chunks and self.config.overlap_prefill:
            self._start_running(plan)
        self.stats.completion_tokens += int((~self.slots.gone[plan.sampled]).sum())
        return self.roster.accept(plan, results)

    def _decodable(self) -> np.ndarray:
        """Running slots with a token left to schedule: a step known to pass the limit is never planned."""
        rows = self.roster.running
        return rows[self.slots.length[rows] + 1 < self.slots.limit[rows]]

    def _plan_decode(self, plan: StepPlan, rows: np.ndarray) -> None:
        table, size = self.slots, self.config.block_size
        rows = rows[: self.config.max_num_batched_tokens]
        lengths = table.length[rows]
        needy = rows[lengths >= table.num_blocks[rows] * size]
        while len(needy) > self.blocks.num_available:
            self._preempt_newest()
            rows = rows[np.isin(rows, self.roster.running)]
            needy, lengths = needy[np.isin(needy, rows)], table.length[rows]
        if len(needy):
            index, blocks = table.num_blocks[needy], self.blocks.allocate(len(needy))
            table.block_table[needy, index] = blocks
            table.num_blocks[needy] = index + 1
            plan.block_updates.append(np.stack([needy, index, blocks], axis=1))
        table.length[rows] = lengths + 1
        self.stats.kv_tokens_read += int(lengths.sum()) + len(rows)
        # The longest are read first: what is read last should not take long. As all grow alike, their order stays.
        plan.decode = rows[np.argsort(-lengths, kind="stable")]
        if not len(rows):
            return
        plan.after_prompts, self.roster.freed_early = self.roster.freed_early, False
        if self._shared_reads is not None:
            self._share_reads(plan, self._shared_reads)

    def fail(self, plans: Iterable[StepPlan]) -> None:
        """Launched steps did not run: their sequences start again, and what they told the device is told again."""
        for plan in plans:
            self.roster.fail_step(plan)
        if self._shared_reads is not None:
            self._shared_reads.forget()

    def _share_reads(self, plan: StepPlan, shared: SharedReads) -> None:
        plan.prefix = shared.look(plan.decode)
        plan.joining, plan.joining_sharing = shared.join()
        plan.shares_reads = shared.is_worth_it(plan.decode)
        if plan.shares_reads:
            self.stats.kv_tokens_shared += (shared.num_sharing(plan.decode) - 1) * shared.num_tokens

    def _preempt_newest(self) -> None:
        roster = self.roster
        roster.preempt(roster.prefilling[-1].slot if roster.prefilling else int(roster.running[-1]))
        self.room.hold_back()
        self.stats.preemptions += 1

    def _wants_prefill(self, num_decodable: int) -> bool:
        if num_decodable and self._prompt_steps >= _MOST_PROMPT_STEPS:
            return False  # prompts that come one by one must not keep rows from going on
        if self.roster.prefilling:
            return True
        if not self.roster.waiting or self.room.num_places == 0:
            return False
        if num_decodable == 0:
            return True
        # Hysteresis: a prefill step interrupts or slows all running rows, so it waits until it is worth that. Waiting
        # for many blocks leaves them unused, which costs as much in the end: for a small part of the cache at most.
        worth_it = min(self.max_prompt_tokens, self.blocks.num_blocks * self.config.block_size // 32)
        count, tokens = self.room.admissible(worth_it)
        return tokens >= worth_it or count >= min(len(self.roster.waiting), max(1, self.room.max_running // 8))

    def _plan_chunks(self, plan: StepPlan, room: int) -> None:
        budget = room
        while budget > 0:
            if not self.roster.prefilling and not (self._fits_the_step(plan, budget, room) and self._admit(plan)):
                break
            sequence = self.roster.prefilling[0]
            left = sequence.num_prefill_tokens - sequence.num_scheduled
            count = min(left, budget)
            chunk = Chunk(sequence, sequence.slot, sequence.num_scheduled, count, final=count == left)
            self._schedule_chunk(plan, chunk)
            budget -= count
            if self.config.deterministic:
                break  # one prompt a step, cut at fixed places: its arithmetic depends on nothing else

    def _fits_the_step(self, plan: StepPlan, budget: int, room: int) -> bool:
        """A prompt is not cut for the last tokens of a step that is half full: prompts in one piece read no cache."""
        if not self.roster.waiting or not plan.chunks:
            return True
        tokens = self.roster.waiting[0].num_prefill_tokens
        return not budget < tokens <= room // 2

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
            self.roster.prefilling.remove(sequence)

    def _admit(self, plan: StepPlan) -> bool:
        """Moves the first waiting sequence into a slot with blocks for its prompt, if there is room."""
        if not self.roster.waiting or self.room.num_places == 0:
            return False
        sequence, size = self.roster.waiting[0], self.config.block_size
        num_tokens = sequence.num_prefill_tokens
        hits = self.blocks.lookup(sequence.prompt.chain(size)[: (num_tokens - 1) // size])
        wanted = sequence.limit if self.config.deterministic else num_tokens
        missing = -(-wanted // size) - len(hits)
        if plan.num_block_updates + len(hits) + missing > self.config.max_block_updates - self.config.max_num_seqs:
            return False
        if not self.room.holds(missing + self.blocks.num_idle(hits)):
            return False
        self.roster.seat(sequence, hits, missing)
        sequence.num_scheduled = len(hits) * size
        self.stats.cached_tokens += sequence.num_scheduled
        plan.admitted.append(sequence)
        plan.block_updates.append(self.slots.block_updates(sequence.slot))
        return True
