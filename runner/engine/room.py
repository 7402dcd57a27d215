"""What room there is for sequences that wait: places, and KV blocks beside what the running ones will need."""

from __future__ import annotations

from itertools import islice

import numpy as np

from runner.engine.roster import Roster
from runner.engine.scheduler_config import SchedulerConfig


class Room:
    """Of an engine's places and blocks, those that may be given to sequences that wait."""

    def __init__(self, config: SchedulerConfig, roster: Roster) -> None:
        self.max_running = config.max_num_seqs  # lowered when the device runs out of memory
        self._config = config
        self._roster = roster
        self._holding = False  # after a preemption nobody is admitted until blocks are plentiful again

    @property
    def num_places(self) -> int:
        """How many more sequences may be seated."""
        roster = self._roster
        return max(0, min(roster.slots.num_free, self.max_running - roster.num_occupied))

    def admissible(self, most_tokens: float) -> tuple[int, int]:
        """How many of those that wait places and blocks allow now, and their tokens, up to ``most_tokens``.

        An estimate: beginnings that are cached, and a preemption of late, are left out.
        """
        blocks, count, tokens = self._roster.blocks.num_available - self._reserve(), 0, 0
        for sequence in islice(self._roster.waiting, self.num_places):
            blocks -= -(-sequence.num_prefill_tokens // self._config.block_size)
            if blocks < 0 or tokens >= most_tokens:
                break
            count, tokens = count + 1, tokens + sequence.num_prefill_tokens
        return count, tokens

    def holds(self, num_blocks: int) -> bool:
        """Whether a sequence may take so many blocks."""
        blocks = self._roster.blocks
        if not self._roster.num_occupied:
            self._holding = False
            return blocks.num_available >= num_blocks
        if self._holding and blocks.num_available < num_blocks + blocks.num_blocks // 10:
            return False
        self._holding = False
        return blocks.num_available >= num_blocks + self._reserve()

    def hold_back(self) -> None:
        """After a preemption: nobody is admitted until blocks are plentiful again."""
        self._holding = True

    def _reserve(self) -> int:
        """Blocks to leave: a running row needs a new one every block_size steps, each one then, within reason."""
        roster = self._roster
        return max(min(roster.num_occupied, roster.blocks.num_blocks // 50), self._expected_growth())

    def _expected_growth(self) -> int:
        """Blocks to leave for what the rows that have a place are expected to add.

        A quarter of it: others end in the meantime, and an empty place costs more than a preemption now and then.
        """
        mean, table, size = self._roster.mean_answer, self._roster.slots, self._config.block_size
        if mean is None or self._config.deterministic:  # deterministic: each has all its blocks from the start
            return 0
        rows = np.flatnonzero(table.num_blocks)
        left = np.maximum(mean - table.num_outputs[rows], size)
        return int(np.minimum(left, table.limit[rows] - table.length[rows]).sum()) // (4 * size)
