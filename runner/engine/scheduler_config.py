"""What the scheduler, and whoever sizes a step, must know of the engine."""

from __future__ import annotations

from dataclasses import dataclass

_MORE_BLOCK_UPDATES = 1 << 16


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int
    overlap_prefill: bool = False
    share_reads: bool = False
    deterministic: bool = False
    eos_ids: tuple[int, ...] = ()

    @property
    def max_blocks_per_sequence(self) -> int:
        return -(-self.max_model_len // self.block_size)

    @property
    def max_block_updates(self) -> int:
        """Most (slot, index, block) triples in one step: bounds the packet, and so admissions behind long prefixes."""
        return self.max_num_seqs + self.max_blocks_per_sequence + _MORE_BLOCK_UPDATES
