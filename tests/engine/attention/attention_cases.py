"""Random rows and prompts over a poisoned paged cache, and what attention must answer to them.

Every block that a step must not read, and every place past a sequence's end, holds NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from runner.engine.attention import AttentionBatch, AttentionSpec, KVCache, allocate_cache
from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import SharedPrefix

TRASH_BLOCK = 0
DUMMY_SLOT = 0


@dataclass(frozen=True)
class Case:
    """Decode rows by their length, and prefill sequences by (tokens before, tokens now): a step of each kind."""

    decode: tuple[int, ...] = ()
    prefill: tuple[tuple[int, int], ...] = ()
    padding_rows: int = 0
    shared: int = 0  # tokens that the decode rows in ``sharing`` (by index) begin with
    sharing: tuple[int, ...] = ()
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    value_dim: int | None = None
    block_size: int = 16
    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    dtype: torch.dtype = torch.float32
    seed: int = 0

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            value_dim=self.value_dim or self.head_dim,
            scale=self.head_dim**-0.5,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )


@dataclass
class Step:
    """Tensors of a case, its decode rows before its prompts; `attend` takes them apart.

    ``expected`` [T, H, Dv] float64 covers the rows that count: ``live`` bool [T].
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    cache: KVCache
    batch: AttentionBatch
    sinks: torch.Tensor | None
    expected: torch.Tensor
    live: torch.Tensor
    written: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # flat cache places of live tokens


def dense_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spec: AttentionSpec, sinks: torch.Tensor | None
) -> torch.Tensor:
    """The definition, in float64: the last Q tokens of a sequence [Q, H, D] over all of it [L, KVH, D]."""
    num_queries, length = query.shape[0], key.shape[0]
    key = key.double().repeat_interleave(spec.group, 1)
    value = value.double().repeat_interleave(spec.group, 1)
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) * spec.scale
    if spec.soft_cap:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    position = torch.arange(length - num_queries, length, device=query.device)[:, None]
    context = torch.arange(length, device=query.device)[None]
    visible = context <= position
    if spec.window:
        visible &= context > position - spec.window
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        extra = sinks.double()[:, None, None].expand(-1, num_queries, 1)
        scores = torch.cat((scores, extra), -1)
    weights = torch.softmax(scores, -1)[..., :length]
    return torch.einsum("hqk,khd->qhd", weights, value)


def make_step(case: Case, device: torch.device | str = "cpu") -> Step:
    """Draws the tensors of a case on the CPU and puts them on ``device``."""
    return _Builder(case).build(torch.device(device))


def attend(backend: AttentionBackend, spec: AttentionSpec, step: Step) -> torch.Tensor:
    """The answers [T, H, Dv] of a backend, which serves rows and prompts in steps of their own."""
    outs = []
    for tokens, batch in _steps_of(step.batch):
        query, key, value = step.query[tokens], step.key[tokens], step.value[tokens]
        backend.plan(batch)
        outs.append(backend.attend(query, key, value, step.cache, batch, spec, step.sinks))
    return torch.cat(outs)


def _steps_of(batch: AttentionBatch) -> Iterator[tuple[slice, AttentionBatch]]:
    """The rows alone and the prompts alone, with where their tokens are among all; what a step has none of is None."""
    rows, prompts = slice(batch.num_decode), slice(batch.num_decode, None)
    if batch.num_decode:
        only_rows = AttentionBatch(
            slot_mapping=batch.slot_mapping[rows],
            block_table=batch.block_table,
            block_size=batch.block_size,
            num_decode=batch.num_decode,
            rows=batch.rows,
            decode_lens=batch.decode_lens,
            prefix=batch.prefix,
        )
        yield rows, only_rows
    if batch.num_prefill:
        places = batch.slot_mapping[prompts]
        yield prompts, replace(batch, slot_mapping=places, num_decode=0, rows=None, decode_lens=None, prefix=None)


class _Builder:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.spec = case.spec
        self.random = torch.Generator().manual_seed(case.seed)
        sequences = [(length - 1, 1) for length in case.decode] + list(case.prefill)
        self.sequences = sequences
        self.lengths = [before + now for before, now in sequences]
        used = [-(-length // case.block_size) for length in self.lengths]
        num_blocks = (
            1 + sum(used) + case.shared // case.block_size + 3
        )  # the trash block, and some that nobody may read
        self.cache = allocate_cache(num_blocks, case.block_size, self.spec, case.dtype, "cpu")
        self.cache.key.fill_(float("nan"))
        self.cache.value.fill_(float("nan"))
        free = (torch.randperm(num_blocks - 1, generator=self.random) + 1).tolist()
        order = torch.randperm(len(sequences), generator=self.random).tolist()
        self.slots = [1 + place for place in order]
        width = max(used, default=0) + 1
        # Past its end a slot's table names blocks of NaN, or nothing that exists.
        self.table = torch.full((len(sequences) + 2, width), free[-1], dtype=torch.int32)
        self.table[:, -1] = -1
        self.table[DUMMY_SLOT, 0] = TRASH_BLOCK
        self.prefix_blocks = torch.tensor(
            [free.pop(0) for _ in range(case.shared // case.block_size)], dtype=torch.int32
        )
        self.prefix_key = self._draw(case.shared, self.spec.num_kv_heads, self.spec.head_dim)
        self.prefix_value = self._draw(case.shared, self.spec.num_kv_heads, self.spec.value_dim)
        for slot, count in zip(self.slots, used, strict=True):
            self.table[slot, :count] = torch.tensor([free.pop(0) for _ in range(count)], dtype=torch.int32)

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random).to(self.case.dtype)

    def build(self, device: torch.device) -> Step:
        case, spec = self.case, self.spec
        sinks = torch.randn(spec.num_heads, generator=self.random) if case.sinks else None
        parts = [self._sequence(index, sinks) for index in range(len(self.sequences))]
        at = len(case.decode)  # padding rows stand behind the decode rows
        parts[at:at] = [self._padding_row() for _ in range(case.padding_rows)]
        query, key, value, places, expected, live = (torch.cat(x) for x in zip(*parts, strict=True))
        batch = self._batch(places)
        step = Step(query, key, value, self.cache, batch, sinks, expected, live, places[live])
        return _move(step, device)

    def _sequence(self, index: int, sinks: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Query, key, value, places, answer and liveness of the tokens that a sequence brings to this step."""
        spec, size = self.spec, self.case.block_size
        (before, now), length = self.sequences[index], self.lengths[index]
        query = self._draw(now, spec.num_heads, spec.head_dim)
        key = self._draw(length, spec.num_kv_heads, spec.head_dim)
        value = self._draw(length, spec.num_kv_heads, spec.value_dim)
        if index in self.case.sharing:
            key[: self.case.shared], value[: self.case.shared] = self.prefix_key, self.prefix_value
            self.table[self.slots[index], : len(self.prefix_blocks)] = self.prefix_blocks
        position = torch.arange(length)
        places = self.table[self.slots[index]][position // size].long() * size + position % size
        block, offset = places[:before] // size, places[:before] % size
        self.cache.key[block, offset] = key[:before]
        self.cache.value[block, offset] = value[:before]
        expected = dense_attention(query, key, value, spec, sinks)
        live = torch.ones(now, dtype=torch.bool)
        return query, key[before:], value[before:], places[before:], expected, live

    def _padding_row(self) -> tuple[torch.Tensor, ...]:
        spec = self.spec
        query, key = self._draw(1, spec.num_heads, spec.head_dim), self._draw(1, spec.num_kv_heads, spec.head_dim)
        value = self._draw(1, spec.num_kv_heads, spec.value_dim)
        place = torch.tensor([TRASH_BLOCK * self.case.block_size])
        expected = torch.zeros(1, spec.num_heads, spec.value_dim, dtype=torch.float64)
        return query, key, value, place, expected, torch.zeros(1, dtype=torch.bool)

    def _batch(self, places: torch.Tensor) -> AttentionBatch:
        case = self.case
        split, padding = len(case.decode), case.padding_rows
        chunks = [now for _, now in case.prefill]
        seq_lens = self.lengths[split:]
        starts = [0, *torch.tensor(chunks).cumsum(0).tolist()] if chunks else [0]
        sharing = torch.zeros(len(self.table), dtype=torch.int32)
        sharing[[self.slots[index] for index in case.sharing]] = case.shared
        # What lies behind the blocks of the beginning must not be read as one.
        blocks = torch.cat([self.prefix_blocks, torch.full((2,), -1, dtype=torch.int32)])
        return AttentionBatch(
            prefix=SharedPrefix(blocks, _int32([case.shared]), sharing) if case.sharing else None,
            slot_mapping=places,
            block_table=self.table,
            block_size=case.block_size,
            num_decode=split + padding,
            rows=_int32(self.slots[:split] + [DUMMY_SLOT] * padding),
            decode_lens=_int32(self.lengths[:split] + [1] * padding),
            num_prefill=len(chunks),
            prefill_rows=_int32(self.slots[split:]),
            cu_seqlens_q=_int32(starts),
            seq_lens=_int32(seq_lens),
            max_seqlen_q=max(chunks, default=0),
            max_seqlen_k=max(seq_lens, default=0),
            fresh=all(before == 0 for before, _ in case.prefill),
        )


def _int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _move(step: Step, device: torch.device) -> Step:
    """The step on ``device``, its cache in the layout that allocate_cache gives there."""
    if device.type == "cpu":
        return step
    for name in ("query", "key", "value", "sinks", "expected", "live", "written"):
        tensor = getattr(step, name)
        setattr(step, name, None if tensor is None else tensor.to(device))
    for name in ("slot_mapping", "block_table", "rows", "decode_lens", "prefill_rows", "cu_seqlens_q", "seq_lens"):
        setattr(step.batch, name, getattr(step.batch, name).to(device))
    if step.batch.prefix is not None:
        prefix = step.batch.prefix
        step.batch.prefix = SharedPrefix(*(x.to(device) for x in (prefix.blocks, prefix.num_tokens, prefix.sharing)))
    step.cache = KVCache(step.cache.key.to(device), step.cache.value.to(device))
    return step
