"""FlashAttention-3 where its package is installed (Hopper only); our own kernel still writes the cache."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.attention.triton_write import write_cache

_PACKAGE = "flash_attn_interface"


class FlashAttention3(AttentionBackend):
    """Adapter of ``flash_attn_interface``: its paged call for decode and chunks, its packed one for fresh prompts."""

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        max_rows: int,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool = False,
    ) -> None:
        super().__init__(specs, max_rows, device, dtype, deterministic)
        package = import_module(_PACKAGE)
        self._paged = package.flash_attn_with_kvcache
        self._packed = package.flash_attn_varlen_func
        self._decode_table = torch.empty(0)  # of the planned step: the block table row by row, not by slot
        self._prefill_table = torch.empty(0)

    @classmethod
    def supports(cls, spec: AttentionSpec, dtype: torch.dtype, block_size: int) -> str | None:
        if find_spec(_PACKAGE) is None:
            return f"the package {_PACKAGE} is not installed"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"FlashAttention-3 has no {dtype}"
        if spec.sinks:
            return "FlashAttention-3 has no attention sinks"
        if spec.head_dim != spec.value_dim or spec.head_dim > 256 or spec.head_dim % 8:
            return f"FlashAttention-3 has no head sizes {spec.head_dim} and {spec.value_dim}"
        return None

    def plan(self, batch: AttentionBatch) -> None:
        if batch.rows is not None and batch.num_decode:
            self._decode_table = batch.block_table.index_select(0, batch.rows)
        if batch.prefill_rows is not None and batch.num_prefill and not batch.fresh:
            self._prefill_table = batch.block_table.index_select(0, batch.prefill_rows)

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
        out = self._paged(
            query.unsqueeze(1),
            cache.key,
            cache.value,
            cache_seqlens=batch.decode_lens,
            page_table=self._decode_table,
            num_splits=1 if self.deterministic else 0,
            **_options(spec),
        )
        return _answer(out).squeeze(1)

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
        starts, longest = batch.cu_seqlens_q, batch.max_seqlen_q
        if batch.fresh:
            return _answer(self._packed(query, key, value, starts, starts, longest, longest, **_options(spec)))
        out = self._paged(
            query,
            cache.key,
            cache.value,
            cache_seqlens=batch.seq_lens,
            page_table=self._prefill_table,
            cu_seqlens_q=starts,
            max_seqlen_q=longest,
            num_splits=1 if self.deterministic else 0,
            **_options(spec),
        )
        return _answer(out)


def _options(spec: AttentionSpec) -> dict[str, Any]:
    window = (spec.window - 1, 0) if spec.window else (-1, -1)
    return {"softmax_scale": spec.scale, "causal": True, "window_size": window, "softcap": spec.soft_cap}


def _answer(out: Any) -> torch.Tensor:
    """Some builds return (answer, log-sum-exp) whether asked or not."""
    return out[0] if isinstance(out, tuple) else out
