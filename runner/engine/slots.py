"""The host's half of the slot state: numpy arrays over slots, mirrored on the device by `DeviceSlots`.

A slot is *free*, *occupied* by a sequence, or *draining*: its sequence has left, but launched steps still carry
results for it, so it is not handed out until the last of them has been read.
"""

from __future__ import annotations

import numpy as np

from runner.engine.results import logprob_words
from runner.engine.sampler import needs_edits
from runner.engine.sequence import Sequence

_FIRST_OUTPUT_WIDTH = 256


class SlotTable:
    """All arrays are indexed by slot; ``num_slots`` is max_num_seqs."""

    def __init__(self, num_slots: int, max_blocks: int) -> None:
        self.num_slots = num_slots
        self.sequences: list[Sequence | None] = [None] * num_slots
        self.length = np.zeros(num_slots, np.int32)  # tokens whose KV is computed by launched steps
        self.limit = np.zeros(num_slots, np.int32)  # prompt + most output tokens
        self.prompt_length = np.zeros(num_slots, np.int32)
        self.num_blocks = np.zeros(num_slots, np.int32)
        self.block_table = np.zeros((num_slots, max_blocks), np.int32)
        self.num_outputs = np.zeros(num_slots, np.int32)  # accepted output tokens
        self.outputs = np.zeros((num_slots, _FIRST_OUTPUT_WIDTH), np.int32)
        self.in_flight = np.zeros(num_slots, np.int32)  # launched steps that sample for the slot, results unread
        self.gone = np.zeros(num_slots, bool)  # the sequence has ended: later results are dropped
        self.watched = np.zeros(num_slots, np.int32)  # tokens that an exact cycle must cover; 0 is off
        self.streamed = np.zeros(num_slots, bool)  # sends its tokens ahead of the sample
        self.drawn = np.zeros(num_slots, bool)  # samples with a temperature
        self.edited = np.zeros(num_slots, bool)  # penalties or biases change its logits
        self.logprob_words = np.zeros(num_slots, np.int32)  # int32 that it wants of each token's log probabilities
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def occupy(self, sequence: Sequence) -> int:
        slot = self._free.pop()
        assert self.in_flight[slot] == 0, "a slot was reused while results for it are in flight"
        self.sequences[slot] = sequence
        sequence.slot = slot
        prompt, made = len(sequence.prompt.token_ids), len(sequence.outputs)
        self.length[slot] = 0
        self.limit[slot] = sequence.limit
        self.prompt_length[slot] = prompt
        self.num_blocks[slot] = 0
        self._widen(made)
        self.outputs[slot, :made] = sequence.outputs
        self.num_outputs[slot] = made
        self.gone[slot] = False
        self.watched[slot] = sequence.sampling.repetition_stop
        self.streamed[slot] = sequence.stream
        self.drawn[slot] = sequence.sampling.temperature > 0
        self.edited[slot] = needs_edits(sequence.sampling)
        self.logprob_words[slot] = logprob_words(sequence.sampling.logprobs)
        return slot

    def release(self, slot: int) -> None:
        """Hands the slot back; its sequence keeps what it made."""
        assert self.in_flight[slot] == 0, "a slot was released while results for it are in flight"
        sequence = self.sequences[slot]
        assert sequence is not None, "a slot was released twice"
        sequence.slot = -1
        self.sequences[slot] = None
        self._free.append(slot)

    def assign_blocks(self, slot: int, blocks: np.ndarray) -> None:
        start = self.num_blocks[slot]
        self.block_table[slot, start : start + len(blocks)] = blocks
        self.num_blocks[slot] = start + len(blocks)

    def block_updates(self, slot: int) -> np.ndarray:
        """What tells the device all blocks of a slot, int32 [k, 3]: slot, index, block."""
        count = int(self.num_blocks[slot])
        rows = np.empty((count, 3), np.int32)
        rows[:, 0], rows[:, 1], rows[:, 2] = slot, np.arange(count), self.block_table[slot, :count]
        return rows

    def take_blocks(self, slot: int) -> np.ndarray:
        """The blocks of the slot, which has none afterwards."""
        blocks = self.block_table[slot, : self.num_blocks[slot]].copy()
        self.num_blocks[slot] = 0
        return blocks

    def append(self, slots: np.ndarray, tokens: np.ndarray) -> None:
        """Accepts one token for each of ``slots``."""
        counts = self.num_outputs[slots]
        self._widen(int(counts.max(initial=0)) + 1)
        self.outputs[slots, counts] = tokens
        self.num_outputs[slots] = counts + 1

    def append_logprobs(self, slots: np.ndarray, words: np.ndarray) -> None:
        """Accepts the log probabilities [len(slots), any] of tokens that `append` has accepted."""
        wanted = self.logprob_words[slots]
        for i in np.flatnonzero(wanted).tolist():
            sequence = self.sequences[slots[i]]
            assert sequence is not None
            sequence.logprobs += words[i, : wanted[i]].tobytes()

    def made(self, slot: int) -> np.ndarray:
        return self.outputs[slot, : self.num_outputs[slot]]

    def _widen(self, width: int) -> None:
        have = self.outputs.shape[1]
        if width > have:
            grown = np.zeros((self.num_slots, max(width, 2 * have)), np.int32)
            grown[:, :have] = self.outputs
            self.outputs = grown
