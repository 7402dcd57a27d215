"""The device's half of the slot state: what a step needs of a sequence without asking the host."""

from __future__ import annotations

import torch
from torch import Tensor

from runner.engine.attention.metadata import SharedPrefix


class DeviceSlots:
    """Tensors over ``max_num_seqs + 1`` slots; the last is the dummy of padding rows, whose block is nobody's.

    All changes are operations of steps. A slot belongs to steps of prompts until its prompt is computed, and to those
    of rows from then on.
    """

    def __init__(self, max_num_seqs: int, max_blocks: int, trash_block: int, device: torch.device) -> None:
        num_slots = max_num_seqs + 1
        self.dummy = max_num_seqs
        self.last_token = torch.zeros(num_slots, dtype=torch.int32, device=device)  # the next step's input
        self.length = torch.zeros(num_slots, dtype=torch.int32, device=device)  # tokens with KV in the cache
        self.block_table = torch.full((num_slots, max_blocks), trash_block, dtype=torch.int32, device=device)
        self.prefix = SharedPrefix(
            blocks=torch.full((max_blocks,), trash_block, dtype=torch.int32, device=device),
            num_tokens=torch.zeros(1, dtype=torch.int32, device=device),
            sharing=torch.zeros(num_slots, dtype=torch.int32, device=device),
        )
        self.rows = torch.full((max_num_seqs,), self.dummy, dtype=torch.int32, device=device)  # slots that decode

    def set_blocks(self, updates: Tensor) -> None:
        """``updates`` int32 [K, 3]: slot, index, block."""
        slot, index, _ = updates.long().unbind(1)
        self.block_table[slot, index] = updates[:, 2]

    def set_prefix(self, blocks: Tensor, sharing: Tensor, block_size: int) -> None:
        """``blocks`` int32 [K] are the shared beginning from now on, ``sharing`` int32 [slots] says who has it."""
        self.prefix.blocks[: len(blocks)] = blocks
        self.prefix.num_tokens.fill_(len(blocks) * block_size)
        self.prefix.sharing[: len(sharing)] = sharing

    def set_rows(self, rows: Tensor) -> None:
        """``rows`` int32 [R]: the slots that decode from now on."""
        self.rows[: len(rows)] = rows
        self.rows[len(rows) :].fill_(self.dummy)

    def advance(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Counts one more token for each of ``rows`` (long [R]); returns its id and its length after it, int32 [R]."""
        lengths = self.length[rows] + 1
        self.length[rows] = lengths
        self.length[self.dummy].zero_()
        return self.last_token[rows], lengths

    def cache_places(self, rows: Tensor, positions: Tensor, block_size: int) -> Tensor:
        """Where position ``positions`` of each of ``rows`` lies in the cache: block * block_size + offset, int64."""
        positions = positions.long()
        blocks = self.block_table[rows, positions // block_size].long()
        return blocks * block_size + positions % block_size
