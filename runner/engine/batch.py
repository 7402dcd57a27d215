"""A step's way to the device: one packet of int32 with only what changed, and where each part lies in it.

The host fills a pinned buffer; one copy brings it over. In steady decode the packet holds the new blocks alone:
which slots run is still known from the step before, and their tokens never left the device (carry-over).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runner.engine.plan import StepPlan
from runner.engine.sampler import WORDS, pack
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.sequence import Sequence

_ALIGNMENT = 4  # int32 words: Triton compiles a kernel anew for pointers that are not 16-byte aligned
BLOCK_UPDATE_WORDS = 3  # slot, index, block


@dataclass(frozen=True, slots=True)
class Section:
    """``count`` rows of ``width`` int32 from ``start`` on."""

    start: int
    count: int
    width: int = 1

    @property
    def stop(self) -> int:
        return self.start + self.count * self.width


_CHUNK_SECTIONS = (
    "token_ids",
    "positions",
    "slot_mapping",
    "chunk_slots",
    "chunk_lens",
    "cu_seqlens",
    "sampled",
    "sampled_slots",
    "sample_positions",
)


@dataclass(frozen=True, slots=True)
class Packet:
    """Where the parts of one packet lie."""

    block_updates: Section  # slot, index, block
    admitted_slots: Section
    admitted_rows: Section  # packed sampling parameters
    joining: Section  # slots that decode for the first time
    joining_sharing: Section  # tokens of the shared beginning that each has
    prefix_blocks: Section  # of another shared beginning; empty while it stays
    prefix_sharing: Section  # tokens of it, by slot; likewise
    rows: Section  # slots that decode, when they are not those of the step before
    token_ids: Section  # of the prompt chunks, [N]
    positions: Section  # [N]
    slot_mapping: Section  # [N]: block * block_size + offset
    chunk_slots: Section  # [P]
    chunk_lens: Section  # [P]: context after this step
    cu_seqlens: Section  # [P + 1]
    sampled: Section  # [final chunks]: packed index of the last token of each
    sampled_slots: Section  # [final chunks]
    sample_positions: Section  # [final chunks]: index of the sampled token in its sequence
    longest_chunk: int
    longest_context: int
    fresh: bool  # every chunk starts its sequence

    @property
    def size(self) -> int:
        return self.sample_positions.stop


def packet_capacity(config: SchedulerConfig) -> int:
    """The largest packet that a scheduler of this configuration can ask for, in int32."""
    seqs, tokens = config.max_num_seqs, config.max_num_batched_tokens
    return (
        BLOCK_UPDATE_WORDS * config.max_block_updates
        + seqs * (WORDS + 1 + 2 + 2 + 1 + 3 + 3)
        + config.max_blocks_per_sequence
        + 3 * tokens
        + _ALIGNMENT * 20
    )


class BatchBuilder:
    """Writes plans into packets. Host work only, in numpy."""

    def __init__(self, config: SchedulerConfig, eos_ids: tuple[int, ...]) -> None:
        self._block_size = config.block_size
        self._eos_ids = eos_ids
        self._sent_rows = np.empty(0, np.int32)

    def build(self, plan: StepPlan, block_table: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> Packet:
        """Fills ``out`` and says where what lies.

        ``lengths`` and ``block_table`` are the host's, after the scheduler has planned this step.
        """
        writer = _Writer(out)
        updates = np.concatenate(plan.block_updates) if plan.block_updates else np.empty((0, 3), np.int32)
        block_updates = writer.put(updates)
        admitted_slots = writer.put(np.array([s.slot for s in plan.admitted], np.int32))
        admitted_rows = writer.put(self._sampling_rows(plan.admitted))
        joining, joining_sharing = writer.put(plan.joining), writer.put(plan.joining_sharing)
        prefix_blocks = writer.put(np.empty(0, np.int32) if plan.prefix is None else plan.prefix.blocks)
        prefix_sharing = writer.put(np.empty(0, np.int32) if plan.prefix is None else plan.prefix.sharing)
        changed = not plan.chunks and not np.array_equal(plan.decode, self._sent_rows)
        rows = writer.put(plan.decode if changed else plan.decode[:0])
        if changed:
            self._sent_rows = plan.decode
        return Packet(
            block_updates=block_updates,
            admitted_slots=admitted_slots,
            admitted_rows=admitted_rows,
            joining=joining,
            joining_sharing=joining_sharing,
            prefix_blocks=prefix_blocks,
            prefix_sharing=prefix_sharing,
            rows=rows,
            **self._chunk_sections(plan, block_table, lengths, writer),
            longest_chunk=max((c.count for c in plan.chunks), default=0),
            longest_context=max((c.start + c.count for c in plan.chunks), default=0),
            fresh=all(c.start == 0 for c in plan.chunks),
        )

    def forget_rows(self) -> None:
        """The device no longer has the rows of the last packet."""
        self._sent_rows = np.empty(0, np.int32)

    def _sampling_rows(self, admitted: list[Sequence]) -> np.ndarray:
        rows = np.empty((len(admitted), WORDS), np.int32)
        for i, s in enumerate(admitted):
            packed = pack(s.sampling, s.seed, self._eos_ids, len(s.prompt.token_ids))
            rows[i] = packed.reshape(1).view(np.int32)
        return rows

    def _chunk_sections(
        self, plan: StepPlan, block_table: np.ndarray, lengths: np.ndarray, writer: _Writer
    ) -> dict[str, Section]:
        chunks = plan.chunks
        if not chunks:
            return dict.fromkeys(_CHUNK_SECTIONS, writer.put(np.empty(0, np.int32)))
        counts = np.array([c.count for c in chunks], np.int32)
        positions = [np.arange(c.start, c.start + c.count, dtype=np.int32) for c in chunks]
        mapping = [
            block_table[c.slot, p // self._block_size] * self._block_size + p % self._block_size
            for c, p in zip(chunks, positions, strict=True)
        ]
        ends = np.cumsum(counts, dtype=np.int32)
        finals = np.array([c.final for c in chunks])
        values = {
            "token_ids": np.concatenate([c.sequence.token_ids[c.start : c.start + c.count] for c in chunks]),
            "positions": np.concatenate(positions),
            "slot_mapping": np.concatenate(mapping),
            "chunk_slots": np.array([c.slot for c in chunks], np.int32),
            "chunk_lens": np.array([c.start + c.count for c in chunks], np.int32),
            "cu_seqlens": np.concatenate([np.zeros(1, np.int32), ends]),
            "sampled": ends[finals] - 1,
            "sampled_slots": plan.sampled,
            "sample_positions": lengths[plan.sampled],
        }
        return {name: writer.put(values[name]) for name in _CHUNK_SECTIONS}


class _Writer:
    def __init__(self, out: np.ndarray) -> None:
        self._out = out
        self._at = 0

    def put(self, values: np.ndarray) -> Section:
        """Appends [count] or [count, width] int32 values."""
        width = values.shape[1] if values.ndim == 2 else 1
        section = Section(-(-self._at // _ALIGNMENT) * _ALIGNMENT, len(values), width)
        if len(values):
            self._out[section.start : section.stop] = values.reshape(-1)
            self._at = section.stop
        return section
