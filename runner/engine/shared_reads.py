"""Which beginning of the cache decode steps read once for many rows, instead of once a row.

Rows behind one long prompt have its blocks in common (`block_manager` sees to that). The beginning that saves most is
looked for now and then; who has it is known when a row starts to decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runner.engine.attention.metadata import PREFIX_TOKENS
from runner.engine.slots import SlotTable

_LOOK_STEPS = 32
FEWEST_ROWS = 16  # that share: fewer gain less than a launch more costs
_FEWEST_TOKENS = 256
_MUCH_BETTER = 1.25  # what another beginning has to save to take the place of the one that is read


@dataclass(frozen=True, slots=True)
class PrefixUpdate:
    """What the device is to know from now on: the blocks, and for every slot how many of their tokens it has."""

    blocks: np.ndarray  # [K] int32
    sharing: np.ndarray  # [slots] int32


class SharedReads:
    """Watches the running rows' tables."""

    def __init__(self, slots: SlotTable, block_size: int) -> None:
        self._slots = slots
        self._block_size = block_size
        self._unit = math.lcm(PREFIX_TOKENS, block_size) // block_size  # blocks
        self._blocks = np.empty(0, np.int32)
        self._sharing = np.zeros(slots.num_slots, np.int32)
        self._starting = np.empty(0, np.int32)  # slots that decode for the first time in the next step of rows
        self._age = 0

    @property
    def num_tokens(self) -> int:
        return len(self._blocks) * self._block_size

    def starts(self, slots: np.ndarray) -> None:
        """They decode from the next step of rows on."""
        self._starting = np.union1d(self._starting, slots)

    def join(self) -> tuple[np.ndarray, np.ndarray]:
        """(slots, tokens of the beginning that each has) of those that start, int32 both: all tokens or none."""
        slots, self._starting = self._starting, self._starting[:0]
        self._sharing[slots] = self._has(slots) * self.num_tokens
        return slots, self._sharing[slots]

    def num_sharing(self, rows: np.ndarray) -> int:
        return int((self._sharing[rows] > 0).sum())

    def is_worth_it(self, rows: np.ndarray) -> bool:
        return self.num_sharing(rows) >= FEWEST_ROWS

    def forget(self) -> None:
        """What the device knows is not certain any more: no beginning is read until it has been told one again."""
        self._blocks = self._blocks[:0]
        self._sharing[:] = 0

    def look(self, rows: np.ndarray) -> PrefixUpdate | None:
        """Every few steps: what to tell the device when another beginning saves more."""
        self._age += 1
        if self._age % _LOOK_STEPS != 1 or len(rows) < FEWEST_ROWS:
            return None
        blocks, count = self._best(rows)
        if count * len(blocks) <= _MUCH_BETTER * self.num_sharing(rows) * len(self._blocks):
            return None
        self._blocks = blocks
        occupied = np.flatnonzero(self._slots.num_blocks)
        self._sharing[:] = 0
        self._sharing[occupied] = self._has(occupied) * self.num_tokens
        return PrefixUpdate(blocks, self._sharing.copy())

    def _has(self, slots: np.ndarray) -> np.ndarray:
        """Which slots begin with the blocks, [len(slots)] bool.

        One may have them by chance, freed by their last owner and its own by now, and not yet have filled the last.
        """
        table, count = self._slots, len(self._blocks)
        begin = (table.block_table[slots, :count] == self._blocks).all(1)
        return begin & (table.num_blocks[slots] >= count) & (table.length[slots] > self.num_tokens)

    def _best(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """(blocks, rows that begin with them): of the beginnings that are worth it, the one that saves most."""
        table, counts = self._slots.block_table, self._slots.num_blocks
        saved, best, sharing = 0, np.empty(0, np.int32), 0
        shortest = -(-_FEWEST_TOKENS // (self._unit * self._block_size)) * self._unit
        for length in range(shortest, table.shape[1] + 1, self._unit):
            rows = rows[counts[rows] >= length]
            if len(rows) < FEWEST_ROWS:
                break
            # Rows that have a block in common have all blocks before it, too; but for a few that raced for one.
            _, index, members = np.unique(table[rows, length - 1], return_index=True, return_counts=True)
            count = int(members.max())
            if count < FEWEST_ROWS:
                break
            if count * length > saved:
                example = rows[index[members.argmax()]]
                saved, best, sharing = count * length, table[example, :length], count
        return best.copy(), sharing
