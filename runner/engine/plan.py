"""What one step does, as the scheduler decides it and the batch carries it to the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runner.engine.sequence import Sequence
from runner.engine.shared_reads import PrefixUpdate


@dataclass(slots=True)
class Chunk:
    """A run of prompt tokens of one sequence; ``final`` if its last token is sampled from."""

    sequence: Sequence
    slot: int
    start: int
    count: int
    final: bool


@dataclass(slots=True)
class StepPlan:
    """One step: rows that decode one token each, and prompt chunks.

    The packed tokens of a step are the decode rows' in the order of ``decode``, then the chunks' one after another.
    """

    decode: np.ndarray  # [R] int32 slots
    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # their sampling state goes to the device first
    block_updates: list[np.ndarray] = field(default_factory=list)  # each [k, 3] int32: slot, index, block
    admitted_sharing: list[int] = field(default_factory=list)  # tokens of the shared beginning, of each admitted
    prefix: PrefixUpdate | None = None  # another shared beginning from this step on
    shares_reads: bool = False  # the decode rows read it once

    sampled: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """Slots that get a token, in the order of the results: the decode rows, then the final chunks. Set by `seal`."""

    def seal(self) -> None:
        finals = [chunk.slot for chunk in self.chunks if chunk.final]
        self.sampled = np.concatenate([self.decode, np.array(finals, np.int32)]) if finals else self.decode

    @property
    def is_empty(self) -> bool:
        return not self.chunks and not len(self.decode)

    @property
    def slots(self) -> list[int]:
        """All slots that the step works on."""
        return [*self.decode.tolist(), *(chunk.slot for chunk in self.chunks)]

    @property
    def num_prefill_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def num_block_updates(self) -> int:
        return sum(map(len, self.block_updates))
