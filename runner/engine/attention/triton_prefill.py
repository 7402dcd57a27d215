"""Prefill attention: torch's own flash attention for fresh prompts where it serves, else our Triton kernel."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache as once
from typing import Any, cast

import torch

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.attention.triton_prefill_kernels import prefill_kernel
from runner.engine.attention.triton_sizes import ceil_div, dot_side, power_of_two

_WIDE_BYTES = 150_000  # the usual tiles take 147,456 for heads of 256; an L4 or a 4090 has 101,376


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How the kernel is cut: BLOCK_M rows (tokens x heads of a group) by BLOCK_N tokens of context."""

    block_m: int = 128
    block_n: int = 64
    num_warps: int = 8
    num_stages: int = 3


def choose_prefill_config(spec: AttentionSpec, dtype: torch.dtype, shared_memory: int) -> PrefillConfig:
    """What fits a multiprocessor of so many bytes; float32 has no tensor cores and wide heads little room."""
    if dtype == torch.float32:
        return PrefillConfig(block_m=32, block_n=16, num_warps=8, num_stages=2)
    if max(spec.head_dim, spec.value_dim) > 128:
        if shared_memory < _WIDE_BYTES:
            return PrefillConfig(block_m=64, block_n=32, num_warps=4, num_stages=2)
        return PrefillConfig(num_stages=2)
    return PrefillConfig()


def triton_prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: KVCache,
    batch: AttentionBatch,
    spec: AttentionSpec,
    sinks: torch.Tensor | None,
    config: PrefillConfig,
) -> torch.Tensor:
    """query [N, H, D] -> [N, H, Dv]; a fresh batch reads the packed ``key`` and ``value``, any other the cache."""
    out = torch.empty(query.shape[0], spec.num_heads, spec.value_dim, dtype=query.dtype, device=query.device)
    paged = not batch.fresh
    source_key, source_value = (cache.key, cache.value) if paged else (key[None], value[None])
    block_m = max(config.block_m, power_of_two(spec.group))
    grid = (ceil_div(batch.max_seqlen_q, block_m // spec.group), spec.num_kv_heads, batch.num_prefill)
    prefill_kernel[grid](
        query,
        source_key,
        source_value,
        out,
        query if sinks is None else sinks,
        batch.prefill_rows,
        batch.cu_seqlens_q,
        batch.seq_lens,
        batch.block_table,
        spec.scale,
        batch.block_table.stride(0),
        *query.stride()[:2],
        *source_key.stride()[:3],
        *source_value.stride()[:3],
        GROUP=spec.group,
        HEAD_DIM=spec.head_dim,
        VALUE_DIM=spec.value_dim,
        BLOCK_SIZE=batch.block_size,
        WINDOW=spec.window,
        SOFT_CAP=spec.soft_cap,
        HAS_SINKS=sinks is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        PAGED=paged,
        BLOCK_M=block_m,
        BLOCK_N=config.block_n,
        BLOCK_D=dot_side(spec.head_dim),
        BLOCK_V=dot_side(spec.value_dim),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out


def varlen_serves(spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch's varlen attention computes ``spec``: half precision, no soft cap, no sinks, equal head sizes."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and not spec.soft_cap
        and not spec.sinks
        and spec.head_dim == spec.value_dim
        and spec.head_dim % 8 == 0
        and spec.head_dim <= 256
        and "window_size" in _varlen_parameters()
    )


def varlen_prefill(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: AttentionBatch, spec: AttentionSpec
) -> torch.Tensor:
    """The same for a fresh batch by torch's varlen attention."""
    from torch.nn.attention.varlen import varlen_attn

    assert batch.cu_seqlens_q is not None
    options: dict[str, Any] = {"scale": spec.scale, "window_size": (spec.window - 1 if spec.window else -1, 0)}
    # Newer versions want the heads' grouping allowed; older ones do it unasked.
    if "enable_gqa" in _varlen_parameters():
        options["enable_gqa"] = True
    starts, longest = batch.cu_seqlens_q, batch.max_seqlen_q
    return cast(torch.Tensor, varlen_attn(query, key, value, starts, starts, longest, longest, **options))


@once
def _varlen_parameters() -> frozenset[str]:
    """The parameter names of this torch's varlen_attn; empty where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)
