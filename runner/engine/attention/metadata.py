"""What an attention backend is told: the kind of attention, one layer's cache, and one step's batch.

Letters of the shapes: T tokens of the step, R decode rows, P prefill sequences, S slots, B blocks a slot may
hold, H query heads, KVH key/value heads, D and Dv head sizes of keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What the attention of one layer computes; equal for most layers of a model."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    window: int = 0  # tokens a query sees, itself included; 0 is all of them
    soft_cap: float = 0.0  # scores become cap * tanh(score / cap); 0 is off
    sinks: bool = False  # one learned logit a head joins every softmax and adds nothing to the sum

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class KVCache:
    """The paged cache of one layer: two separate tensors, of any strides but a dense last dimension."""

    key: torch.Tensor  # [num_blocks, block_size, KVH, D]
    value: torch.Tensor  # [num_blocks, block_size, KVH, Dv]

    @property
    def block_size(self) -> int:
        return self.key.shape[1]


PREFIX_TOKENS = 64  # a shared beginning is a multiple of it: whole tiles, of whole tiles of any backend


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """A beginning that decode rows have in common, down to the blocks that hold it."""

    blocks: torch.Tensor  # int32 [B], in order
    num_tokens: torch.Tensor  # int32 [1]: a multiple of PREFIX_TOKENS; 0 while there is none
    sharing: torch.Tensor  # int32 [S]: num_tokens for a slot that begins with it, else 0


@dataclass(slots=True)
class AttentionBatch:
    """One step: decode rows or prefill tokens.

    Tensors may be static buffers of a CUDA graph; the numbers are those the graph was captured with. A padding
    row of a graph batch points at a dummy slot, has length 1 and writes into a block that nobody reads.
    """

    slot_mapping: torch.Tensor  # int64 [T]: block * block_size + offset, where each token's KV goes
    block_table: torch.Tensor  # int32 [S, B]: the blocks of every slot, in order; entries past its end may be anything
    block_size: int
    num_decode: int = 0
    rows: torch.Tensor | None = None  # int32 [R]: the slot of each decode row
    decode_lens: torch.Tensor | None = None  # int32 [R]: tokens it attends to, its own included (position + 1)
    num_prefill: int = 0
    prefill_rows: torch.Tensor | None = None  # int32 [P]: the slot of each prefill sequence
    cu_seqlens_q: torch.Tensor | None = None  # int32 [P + 1]: where its tokens start among the prefill tokens
    seq_lens: torch.Tensor | None = None  # int32 [P]: its context after this step, earlier chunks included
    max_seqlen_q: int = 0  # the longest chunk of this step
    max_seqlen_k: int = 0  # the largest of seq_lens
    prefix: SharedPrefix | None = None  # of decode rows: a backend may read it once for all; the rows' tables have it
    fresh: bool = False  # every prefill sequence starts at position 0: nothing is read from the cache


def allocate_cache(
    num_blocks: int, block_size: int, spec: AttentionSpec, dtype: torch.dtype, device: torch.device | str
) -> KVCache:
    """An uninitialised cache of one layer. The one place that decides how it lies in memory."""
    shape = (num_blocks, block_size, spec.num_kv_heads)
    key = torch.empty(*shape, spec.head_dim, dtype=dtype, device=device)
    return KVCache(key, torch.empty(*shape, spec.value_dim, dtype=dtype, device=device))
