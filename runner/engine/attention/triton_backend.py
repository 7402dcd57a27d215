"""The backend of a plain install on CUDA: our Triton kernels, and torch's varlen attention for fresh prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.attention.triton_decode import TritonDecode, choose_config
from runner.engine.attention.triton_prefill import (
    choose_prefill_config,
    triton_prefill,
    varlen_prefill,
    varlen_serves,
)
from runner.engine.attention.triton_prefix import TritonPrefix
from runner.engine.attention.triton_sizes import shared_memory
from runner.engine.attention.triton_write import write_cache

_LARGEST_HEAD = 256
_LARGEST_GROUP = 64


class TritonAttention(AttentionBackend):
    """Paged attention that needs nothing but torch and the Triton that comes with it."""

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        max_rows: int,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool = False,
    ) -> None:
        super().__init__(specs, max_rows, device, dtype, deterministic)
        configs = [choose_config(spec, dtype, deterministic) for spec in self.specs]
        whole = [spec for spec in self.specs if not spec.window]
        prefix = TritonPrefix(whole, max_rows, device, dtype) if whole and not deterministic else None
        self._decode = TritonDecode(self.specs, max_rows, device, configs, prefix)

    @classmethod
    def supports(cls, spec: AttentionSpec, dtype: torch.dtype, block_size: int) -> str | None:
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"its dtype {dtype} is none of float32, bfloat16 and float16"
        if max(spec.head_dim, spec.value_dim) > _LARGEST_HEAD:
            return f"its heads are wider than {_LARGEST_HEAD}"
        if spec.group > _LARGEST_GROUP:
            return f"more than {_LARGEST_GROUP} query heads share a key/value head"
        if block_size < 16 or block_size & (block_size - 1):
            return f"engine.block_size={block_size} is not a power of two of at least 16"
        return None

    def write(self, key: torch.Tensor, value: torch.Tensor, cache: KVCache, batch: AttentionBatch) -> None:
        write_cache(key, value, cache, batch.slot_mapping)

    def decode(
        self,
        query: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self._decode(query, cache, batch, spec, sinks)

    def append_and_decode(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self._decode(query, cache, batch, spec, sinks, (key, value))

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
        if batch.fresh and varlen_serves(spec, query.dtype, query.device):
            return varlen_prefill(query, key, value, batch, spec)
        config = choose_prefill_config(spec, query.dtype, shared_memory(query.device))
        return triton_prefill(query, key, value, cache, batch, spec, sinks, config)
