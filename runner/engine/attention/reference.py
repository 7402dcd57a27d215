"""Attention in plain torch: the backend of CPUs, and what every other backend is tested against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache

# What a group gathers should still be in a core's cache when it is used: 8 rows of 200 tokens at a time take
# 0.6 of the time that 64 rows at once take (two cores, 3 heads of 64).
_GROUP_ROWS = 16
_GROUP_TOKENS = 8192
# A group ends where a row would be more than twice as long as the next: the padding costs more than a call.
_GROUP_SPREAD = 2
# Queries in one masked piece of a prefill: bounds the scores to this times the context.
_PIECE = 512


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Decode rows of similar length whose blocks are gathered together."""

    rows: torch.Tensor  # int64 [n]: their places among the decode rows
    blocks: torch.Tensor  # int64 [n * k]: k blocks a row; past a row's end its first block again
    past_end: torch.Tensor  # int64: the gathered tokens, counted over all rows, that lie past a row's end
    mask: torch.Tensor  # bool [n, 1, 1, k * block_size]: the gathered tokens that each row attends to


class ReferenceAttention(AttentionBackend):
    """Gathers the needed blocks and leaves the arithmetic to scaled_dot_product_attention.

    Soft caps and sinks, which that function does not know, take a softmax written out in float32.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        max_rows: int,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool = False,
    ) -> None:
        super().__init__(specs, max_rows, device, dtype, deterministic)
        self._largest_group = 1 if deterministic else _GROUP_ROWS
        self._groups: dict[int, list[_DecodeGroup]] = {}  # of the planned step, by window
        self._key_scratch = torch.empty(0)
        self._value_scratch = torch.empty(0)

    @classmethod
    def supports(cls, spec: AttentionSpec, dtype: torch.dtype, block_size: int) -> str | None:
        return None

    def plan(self, batch: AttentionBatch) -> None:
        self._groups = {}
        if batch.num_decode == 0:
            return
        assert batch.rows is not None and batch.decode_lens is not None
        table = batch.block_table.index_select(0, batch.rows[: batch.num_decode])
        lens = batch.decode_lens[: batch.num_decode]
        for window in {spec.window for spec in self.specs}:
            self._groups[window] = list(_group_rows(lens, table, window, batch.block_size, self._largest_group))

    def write(self, key: torch.Tensor, value: torch.Tensor, cache: KVCache, batch: AttentionBatch) -> None:
        block, offset = batch.slot_mapping // cache.block_size, batch.slot_mapping % cache.block_size
        cache.key[block, offset] = key
        cache.value[block, offset] = value

    def decode(
        self,
        query: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = query.new_empty(query.shape[0], spec.num_heads, spec.value_dim)
        for group in self._groups[spec.window]:
            key, value = self._gather(cache, group.blocks, len(group.rows), group.past_end)
            # The query heads of a group become queries of its key/value head: one position, so one mask for all.
            heads = query[group.rows].unflatten(1, (spec.num_kv_heads, spec.group))
            attended = _attention(heads, key, value, group.mask, spec, _by_kv_head(sinks, spec))
            out[group.rows] = attended.flatten(1, 2)
        return out

    def prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert batch.cu_seqlens_q is not None and batch.prefill_rows is not None and batch.seq_lens is not None
        out = query.new_empty(query.shape[0], spec.num_heads, spec.value_dim)
        starts, lens = batch.cu_seqlens_q.tolist(), batch.seq_lens.tolist()
        for index in range(batch.num_prefill):
            tokens = slice(starts[index], starts[index + 1])
            if batch.fresh:
                context = key[tokens].transpose(0, 1)[None], value[tokens].transpose(0, 1)[None]
            else:
                num_blocks = -(-lens[index] // batch.block_size)
                blocks = batch.block_table[batch.prefill_rows[index], :num_blocks]
                past_end = torch.arange(lens[index], num_blocks * batch.block_size)
                context = self._gather(cache, blocks, 1, past_end)
            out[tokens] = _causal_attention(query[tokens], *context, lens[index], spec, sinks)
        return out

    def _gather(
        self, cache: KVCache, blocks: torch.Tensor, num_rows: int, past_end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks' keys and values, [num_rows, KVH, L, D]. They live until the next call.

        What lies past a row's end may be NaN, left there by another sequence, and a mask does not stop NaN.
        """
        self._key_scratch = _fitting(self._key_scratch, cache.key, len(blocks))
        self._value_scratch = _fitting(self._value_scratch, cache.value, len(blocks))
        key = _select(cache.key, blocks, self._key_scratch).index_fill_(0, past_end, 0)
        value = _select(cache.value, blocks, self._value_scratch).index_fill_(0, past_end, 0)
        by_row = (num_rows, -1)
        return key.unflatten(0, by_row).transpose(1, 2), value.unflatten(0, by_row).transpose(1, 2)


def _group_rows(
    lens: torch.Tensor, table: torch.Tensor, window: int, block_size: int, most: int
) -> Iterator[_DecodeGroup]:
    """Cuts the rows, longest first, into groups; lens [R], table [R, B] of the rows themselves."""
    first = (lens - window).clamp(min=0) // block_size if window else torch.zeros_like(lens)
    counts = (lens + block_size - 1) // block_size - first
    counts, order = counts.sort(descending=True, stable=True)
    sizes = counts.tolist()
    start = 0
    while start < len(sizes):
        width = sizes[start]
        limit = start + max(1, min(most, _GROUP_TOKENS // (width * block_size)))
        stop = start + 1
        while stop < min(limit, len(sizes)) and sizes[stop] * _GROUP_SPREAD >= width:
            stop += 1
        rows = order[start:stop]
        yield _group(rows, lens[rows], first[rows], table[rows], width, window, block_size)
        start = stop


def _group(
    rows: torch.Tensor,
    lens: torch.Tensor,
    first: torch.Tensor,
    table: torch.Tensor,
    width: int,
    window: int,
    block_size: int,
) -> _DecodeGroup:
    """The group of ``rows``: ``width`` blocks each, from block ``first`` on."""
    place = first[:, None] + torch.arange(width)
    used = place * block_size < lens[:, None]
    blocks = table.gather(1, torch.where(used, place, first[:, None]).to(torch.int64))
    position = first[:, None] * block_size + torch.arange(width * block_size)
    mask = position < lens[:, None]
    past_end = (~mask).flatten().nonzero().flatten()
    if window:
        mask &= position >= lens[:, None] - window
    return _DecodeGroup(rows, blocks.flatten(), past_end, mask[:, None, None])


def _fitting(scratch: torch.Tensor, cache: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Scratch that holds ``num_blocks`` blocks of ``cache``: the given one, or a larger one."""
    needed = num_blocks * cache[0].numel()
    if scratch.numel() >= needed and scratch.dtype == cache.dtype:
        return scratch
    return torch.empty(needed, dtype=cache.dtype)


def _select(cache: torch.Tensor, blocks: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """``cache[blocks]`` as [tokens, KVH, D], in ``scratch``: fresh memory would fault in page by page, which costs
    as much as the copy.
    """
    out = scratch[: len(blocks) * cache[0].numel()].view(len(blocks), *cache.shape[1:])
    return torch.index_select(cache, 0, blocks, out=out).flatten(0, 1)


def _by_kv_head(sinks: torch.Tensor | None, spec: AttentionSpec) -> torch.Tensor | None:
    """Sinks [H] as the logits that join the softmax of decode queries, [KVH, G, 1]."""
    return None if sinks is None else sinks.view(spec.num_kv_heads, spec.group, 1)


def _causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: int,
    spec: AttentionSpec,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The last tokens of one sequence, query [Q, H, D], over its whole context, key [1, KVH, >= length, D]."""
    num_queries = query.shape[0]
    query = query.transpose(0, 1)[None]
    sinks = None if sinks is None else sinks.view(-1, 1, 1)
    windowed = 0 < spec.window < length
    if num_queries == length and not windowed and spec.soft_cap == 0 and sinks is None:
        whole = F.scaled_dot_product_attention(
            query, key[:, :, :length], value[:, :, :length], is_causal=True, scale=spec.scale, enable_gqa=True
        )
        return whole[0].transpose(0, 1)
    pieces = []
    for start in range(0, num_queries, _PIECE):
        stop = min(start + _PIECE, num_queries)
        position = torch.arange(length - num_queries + start, length - num_queries + stop)[:, None]
        seen_from = max(0, int(position[0, 0]) + 1 - spec.window) if windowed else 0
        seen_to = int(position[-1, 0]) + 1
        context = torch.arange(seen_from, seen_to)
        mask = context <= position
        if windowed:
            mask &= context > position - spec.window
        seen = slice(seen_from, seen_to)
        piece = _attention(query[:, :, start:stop], key[:, :, seen], value[:, :, seen], mask, spec, sinks)
        pieces.append(piece[0].transpose(0, 1))
    return torch.cat(pieces)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    spec: AttentionSpec,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """query [n, heads, Q, D] over key [n, KVH, L, D]; ``sinks`` broadcasts to one logit a query."""
    if spec.soft_cap == 0 and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=spec.scale, enable_gqa=True)
    repeats = query.shape[1] // key.shape[1]
    key, value = key.float().repeat_interleave(repeats, 1), value.float().repeat_interleave(repeats, 1)
    scores = (query.float() @ key.transpose(-1, -2)) * spec.scale
    if spec.soft_cap:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.float().expand(*scores.shape[:-1], 1)), dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[2]]
    return (weights @ value).to(query.dtype)
