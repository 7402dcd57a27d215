"""What one step does, as the scheduler decides it and the batch carries it to the device: prompts, or rows."""

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
    """One step: rows that decode one token each, or prompt chunks, whose tokens are packed one after another."""

    decode: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # [R] int32 slots
    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # their sampling state goes to the device first
    block_updates: list[np.ndarray] = field(default_factory=list)  # each [k, 3] int32: slot, index, block
    joining: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # slots that decode for the first time
    joining_sharing: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # their shared tokens, each
    prefix: PrefixUpdate | None = None  # another shared beginning from this step on
    shares_reads: bool = False  # the decode rows read it once
    beside_rows: bool = False  # of prompts: there are rows that decode at the same time
    holds_rows: bool = False  # of prompts: rows, where there are any, wait until these are computed
    num_seated: int = 0  # sequences that have a place, these among them
    after_prompts: bool = False  # may write where prompts in flight still do: not before they have passed

    sampled: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """Slots that get a token, in the order of the results: the decode rows, or the final chunks. Set by `seal`."""

    def seal(self) -> None:
        assert not (self.chunks and len(self.decode)), "a step has prompts or rows"
        finals = [chunk.slot for chunk in self.chunks if chunk.final]
        self.sampled = np.array(finals, np.int32) if self.chunks else self.decode

    @property
    def is_empty(self) -> bool:
        return not self.chunks and not len(self.decode)

    @property
    def slots(self) -> list[int]:
        """All slots that the step works on."""
        return [*self.decode.tolist(), *(chunk.slot for chunk in self.chunks)]

    @property
    def is_abandoned(self) -> bool:
        """Whether these are prompts that have all left their slots, which may be others' by now."""
        return bool(self.chunks) and all(chunk.sequence.slot != chunk.slot for chunk in self.chunks)

    @property
    def num_prefill_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def num_block_updates(self) -> int:
        return sum(map(len, self.block_updates))
