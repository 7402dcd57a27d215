"""Runs steps on the device: packet in, forward, sample, results out. Knows no sequences, only slots.

Prompts may have a lane of their own: a step of many rows reads their cache and a prompt computes, so that beside one
another both take less than in turns (NanoFlow, arXiv 2408.12757, does so within a step).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from runner.engine.admission import EditLoad, edits_of
from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch
from runner.engine.batch import BatchBuilder, Packet, Section, packet_capacity
from runner.engine.device import Device
from runner.engine.device_slots import DeviceSlots
from runner.engine.device_times import DeviceTimes
from runner.engine.forward import forward
from runner.engine.graphs import DecodeGraphs, Kind
from runner.engine.lane import Lane, Launched
from runner.engine.last_layer import last_tokens
from runner.engine.layers import StepContext
from runner.engine.plan import StepPlan
from runner.engine.results import ResultLayout, StepResults, most_words, step_width
from runner.engine.sampler import LogprobsBuffer, SamplingState, Variant, load_sampler
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.slots import SlotTable

_FEWEST_LAST = 2  # the compiler would compile all anew for one token
_TOKENS_A_LAST = 8  # of a step for each that is sampled from: with fewer, running a layer twice costs as much


class ModelRunner:
    """Owns the device: the model, its cache, the slot state and the double buffers."""

    def __init__(
        self,
        model: nn.Module,
        backend: AttentionBackend,
        context: StepContext,
        device: Device,
        config: SchedulerConfig,
        eos_ids: tuple[int, ...],
        vocab_size: int,
        graph_sizes: SequenceOf[int] = (),
    ) -> None:
        """``graph_sizes`` are the batch sizes whose decode steps run from CUDA graphs; none: all run eagerly."""
        self._model = model
        self._context = context
        self._forward = partial(forward, model, backend, context)
        self._device = device
        self._config = config
        self.slots = DeviceSlots(
            config.max_num_seqs, config.max_blocks_per_sequence, config.num_blocks, device.torch_device
        )
        self._sampling = SamplingState(config.max_num_seqs, vocab_size, device.torch_device)
        self._sampler = load_sampler(device.torch_device)
        self.builder = BatchBuilder(config, eos_ids)
        capacity, results = packet_capacity(config), most_words(config.max_num_seqs)
        streams = device.h2d, device.compute, device.d2h
        self._rows = self._prompts = Lane(device, "", streams, capacity, results)
        if config.overlap_prefill:
            streams = device.prompts, device.prompts, device.prompts
            self._prompts = Lane(device, "prompts_", streams, capacity, results)
        self._num_prompts = 0  # steps of them in flight beside rows or before them, on a lane of their own
        self._has_loaded_edits = False
        self._shares_reads = False  # did the decode steps of late
        self.times = DeviceTimes()
        self._graphs = DecodeGraphs(self._decode, self._warm_up, graph_sizes) if graph_sizes else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self._model.parameters()).dtype

    def launch(self, plan: StepPlan, table: SlotTable) -> Launched:
        """Queues one step and returns at once."""
        lane = self._prompts if plan.chunks else self._rows
        packet = lane.packet(lambda out: self.builder.build(plan, table.block_table, table.length, out))
        layout = ResultLayout(len(plan.sampled), step_width(table.logprob_words[plan.sampled]))
        kind = Kind(variant(plan, table), plan.shares_reads)
        step = _Step(packet, len(plan.decode), plan.beside_rows, layout, kind, edits_of(plan.admitted))
        if self._config.overlap_prefill:
            self._order(plan, step)
        if len(plan.decode):
            self._shares_reads = plan.shares_reads
        return lane.launch(plan, kind.variant, packet, layout, lambda data, out: self._run(step, data, out))

    def _order(self, plan: StepPlan, step: _Step) -> None:
        """What one lane must not do before the other has: blocks go from rows that end to prompts, not back."""
        if plan.chunks:
            self._num_prompts += 1
            self._prompts.after(self._rows)
            self._has_loaded_edits |= any(load is not None for _, load in step.edits)
        elif plan.after_prompts or self._has_loaded_edits:  # loading edits may move those of all rows
            self._rows.after(self._prompts)
            self._has_loaded_edits = False

    def prepare(self, launched: Launched, num_rows: int) -> None:
        """While the device is busy with prompts: gets graphs ready for up to ``num_rows`` decode rows."""
        plan = launched.plan
        if not self._graphs or launched.variant is Variant.FULL or not len(plan.sampled):
            return
        if plan.beside_rows or not (plan.chunks or self._num_prompts):
            return
        now = self._num_rows(len(plan.sampled))
        most = max(now, self._num_rows(num_rows))
        kind, has_time = Kind(launched.variant, self._shares_reads), self._time_beside(launched)
        self._device.compute.enqueue(lambda: self._capture_ahead(now, most, kind, has_time))

    def _time_beside(self, launched: Launched) -> Callable[[float], bool]:
        """Whether the host may begin what takes it so many seconds, for it will hardly keep the device waiting."""
        if not launched.plan.chunks:  # beside prompts a step of rows takes longer than a capture
            once = iter([True])
            return lambda seconds: next(once, False)
        if not launched.plan.holds_rows:  # nothing else is launched before these are done
            return lambda seconds: not launched.is_done
        # Half of the step's time is left for the host's own work on the next one.
        until = time.perf_counter() + self.times.expected(launched.plan.num_prefill_tokens) / 2
        return lambda seconds: time.perf_counter() + seconds < until

    def results(self, launched: Launched) -> StepResults:
        """Waits for a step."""
        results = launched.read()
        if launched.plan.chunks:
            self._num_prompts = max(0, self._num_prompts - 1)
            self.times.add_prompts(launched.begin, launched.end, launched.plan.num_prefill_tokens)
        else:
            self.times.add_rows(launched.begin, launched.end, beside=self._num_prompts > 0)
        return results

    def recover(self) -> None:
        """After a step failed: drops what is queued, and what the device was believed to hold of it."""
        self._device.discard()
        self.times.lose_prompts()
        self._num_prompts = 0
        self.builder.forget_rows()

    @torch.inference_mode()
    def _run(self, step: _Step, data: Tensor, out: Tensor) -> None:
        """One step, on its lane's stream."""
        self._apply(step, data)
        prefills = bool(step.packet.token_ids.count)
        num_rows = self._num_rows(step.num_decode)
        logprobs = _logprobs_buffer(step.layout, step.layout.num_rows if prefills else num_rows, out.device)
        if prefills:
            with self._device.leaving_room() if step.beside_rows else nullcontext():
                tokens, status = self._prefill(step, data, logprobs)
        elif self._graphs and step.kind.variant is not Variant.FULL:
            tokens, status = self._graphs.run(num_rows, step.kind)
        else:
            tokens, status = self._decode(num_rows, step.kind, logprobs)
        if step.layout.num_rows:
            step.layout.write(out, tokens, status, logprobs)

    @torch.inference_mode()  # as steps run: else the compiler would compile all anew, in the midst of a capture
    def _capture_ahead(self, num_rows: int, most: int, kind: Kind, has_time: Callable[[float], bool]) -> None:
        assert self._graphs
        self._graphs.capture_ahead(num_rows, most, kind, has_time)

    def _num_rows(self, num_decode: int) -> int:
        """The arithmetic of a row may depend on how many there are: deterministic steps have one size."""
        return self._config.max_num_seqs if self._config.deterministic else num_decode

    def _decode(self, num_rows: int, kind: Kind, logprobs: LogprobsBuffer | None = None) -> tuple[Tensor, Tensor]:
        """One token for each of the first ``num_rows`` rows: their (tokens, status), int32 [num_rows]."""
        token_ids, batch, positions = self._decode_batch(num_rows)
        batch.prefix = self.slots.prefix if kind.shared else None
        logits = self._forward(token_ids, positions, batch)
        assert batch.rows is not None and batch.decode_lens is not None
        return self._sample(logits, batch.rows, batch.decode_lens, kind.variant, logprobs)

    def _decode_batch(self, num_rows: int) -> tuple[Tensor, AttentionBatch, Tensor]:
        """Advances the rows; their token ids, where their KV goes, and their positions."""
        rows = self.slots.rows[:num_rows]
        token_ids, lengths = self.slots.advance(rows.long())
        positions = lengths - 1
        batch = AttentionBatch(
            slot_mapping=self.slots.cache_places(rows.long(), positions, self._config.block_size),
            block_table=self.slots.block_table,
            block_size=self._config.block_size,
            num_decode=num_rows,
            rows=rows,
            decode_lens=lengths,
        )
        return token_ids, batch, positions

    def _prefill(self, step: _Step, data: Tensor, logprobs: LogprobsBuffer | None) -> tuple[Tensor, Tensor]:
        """Computes prompt chunks; one token for each that is its prompt's last."""
        packet = step.packet
        batch = self._chunk_batch(packet, data)
        token_ids, positions = _take(data, packet.token_ids), _take(data, packet.positions)
        slots, sample_positions = _take(data, packet.sampled_slots), _take(data, packet.sample_positions)
        index, last = _take(data, packet.sampled).long(), None
        few = _FEWEST_LAST <= packet.sampled.count <= packet.token_ids.count // _TOKENS_A_LAST
        if few and self._context.finishes_alone:
            last = last_tokens(batch, index, slots, sample_positions)
        logits = self._forward(token_ids, positions, batch, index, last)
        if not step.layout.num_rows:
            return logits.new_empty(0), logits.new_empty(0)
        return self._sample(logits, slots, sample_positions, step.kind.variant, logprobs)

    def _chunk_batch(self, packet: Packet, data: Tensor) -> AttentionBatch:
        slots, lens = _take(data, packet.chunk_slots), _take(data, packet.chunk_lens)
        self.slots.length[slots.long()] = lens
        return AttentionBatch(
            slot_mapping=_take(data, packet.slot_mapping).long(),
            block_table=self.slots.block_table,
            block_size=self._config.block_size,
            num_prefill=packet.chunk_slots.count,
            prefill_rows=slots,
            cu_seqlens_q=_take(data, packet.cu_seqlens),
            seq_lens=lens,
            max_seqlen_q=packet.longest_chunk,
            max_seqlen_k=packet.longest_context,
            fresh=packet.fresh,
        )

    def _sample(
        self, logits: Tensor, slots: Tensor, positions: Tensor, variant: Variant, logprobs: LogprobsBuffer | None
    ) -> tuple[Tensor, Tensor]:
        tokens, status = self._sampler.sample(logits, slots, positions, self._sampling, variant, logprobs)
        self.slots.last_token[slots.long()] = tokens
        return tokens, status

    @torch.inference_mode()
    def _warm_up(self, num_rows: int, kind: Kind) -> None:
        """Runs a decode step on padding rows alone, in stream order: nobody's state changes."""
        kept = self.slots.rows.clone()
        self.slots.rows.fill_(self.slots.dummy)
        self._decode(num_rows, kind)
        self.slots.rows.copy_(kept)

    def _apply(self, step: _Step, data: Tensor) -> None:
        """Brings the slot state up to date with what the host decided for this step."""
        packet = step.packet
        if packet.block_updates.count:
            self.slots.set_blocks(_take(data, packet.block_updates))
        if packet.prefix_blocks.count:
            blocks, sharing = _take(data, packet.prefix_blocks), _take(data, packet.prefix_sharing)
            self.slots.set_prefix(blocks, sharing, self._config.block_size)
        if packet.admitted_slots.count:
            self._sampling.admit(_take(data, packet.admitted_slots), _take(data, packet.admitted_rows))
        if packet.joining.count:
            self.slots.prefix.sharing[_take(data, packet.joining).long()] = _take(data, packet.joining_sharing)
        for slot, load in step.edits:
            self._sampling.retire(slot)
            if load is not None:
                load(self._sampling)
        if packet.rows.count:
            self.slots.set_rows(_take(data, packet.rows))


@dataclass(frozen=True, slots=True)
class _Step:
    """What `_run` knows of a step; all of it fixed when the step is launched."""

    packet: Packet
    num_decode: int
    beside_rows: bool
    layout: ResultLayout
    kind: Kind
    edits: list[tuple[int, EditLoad | None]]


def variant(plan: StepPlan, table: SlotTable) -> Variant:
    """The cheapest sampler that serves all rows of the step."""
    sampled = plan.sampled
    if table.edited[sampled].any() or table.logprob_words[sampled].any():
        return Variant.FULL
    return Variant.PLAIN if table.drawn[sampled].any() else Variant.GREEDY


def _logprobs_buffer(layout: ResultLayout, num_rows: int, device: torch.device) -> LogprobsBuffer | None:
    return None if layout.num_top is None else LogprobsBuffer.empty(num_rows, layout.num_top, device)


def _take(data: Tensor, section: Section) -> Tensor:
    part = data[section.start : section.stop]
    return part if section.width == 1 else part.view(section.count, section.width)
