"""The beginning that decode rows share, read once for a tile of rows instead of once a row.

A tile's queries are one matrix, so the products are those of a prefill, and the cache is read by a few programs. What
they find goes to a work space as parts, which `triton_decode` combines with the rest of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.engine.attention.metadata import PREFIX_TOKENS, AttentionBatch, AttentionSpec, KVCache, SharedPrefix
from runner.engine.attention.triton_prefix_kernels import prefix_kernel
from runner.engine.attention.triton_sizes import ceil_div, dot_side, power_of_two

_PROGRAMS = 132  # one for each multiprocessor of an H100
_MOST_SPLITS = 16
_QUERIES = 128  # of a tile: rows times heads of a group


@dataclass(frozen=True, slots=True)
class PrefixParts:
    """Where the parts are: ``num_splits`` a row and head, float32 ``acc`` [parts, G, Dv], ``stats`` [parts, 2, G]."""

    acc: torch.Tensor
    stats: torch.Tensor
    num_splits: int


class TritonPrefix:
    """Reads shared beginnings, with the work space that its launches share."""

    def __init__(self, specs: Sequence[AttentionSpec], max_rows: int, device: torch.device) -> None:
        rows_of_parts = [max(_num_parts(rows, spec) for rows in range(1, max_rows + 1)) * spec.group for spec in specs]
        acc_size = max(rows * spec.value_dim for rows, spec in zip(rows_of_parts, specs, strict=True))
        self._acc = torch.empty(acc_size, dtype=torch.float32, device=device)
        self._stats = torch.empty(2 * max(rows_of_parts), dtype=torch.float32, device=device)

    def __call__(
        self, query: torch.Tensor, cache: KVCache, batch: AttentionBatch, prefix: SharedPrefix, spec: AttentionSpec
    ) -> PrefixParts:
        """query [R, H, D]; the parts live until the next call."""
        rows, splits = _tile_rows(spec), _num_splits(batch.num_decode, spec)
        prefix_kernel[(spec.num_kv_heads * splits, ceil_div(batch.num_decode, rows))](
            query,
            cache.key,
            cache.value,
            batch.rows,
            prefix.sharing,
            prefix.blocks,
            prefix.num_tokens,
            self._acc,
            self._stats,
            batch.num_decode,
            splits,
            spec.scale,
            *query.stride()[:2],
            *cache.key.stride()[:3],
            *cache.value.stride()[:3],
            KV_HEADS=spec.num_kv_heads,
            GROUP=spec.group,
            HEAD_DIM=spec.head_dim,
            VALUE_DIM=spec.value_dim,
            BLOCK_SIZE=cache.block_size,
            SOFT_CAP=spec.soft_cap,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            ROWS=rows,
            BLOCK_N=PREFIX_TOKENS,
            BLOCK_G=power_of_two(spec.group),
            BLOCK_D=dot_side(spec.head_dim),
            BLOCK_V=dot_side(spec.value_dim),
            num_warps=8,
            num_stages=_num_stages(spec, query.dtype),
        )
        return PrefixParts(self._acc, self._stats, splits)


def _num_stages(spec: AttentionSpec, dtype: torch.dtype) -> int:
    """Tiles of keys and values on their way at once: as many as fit a multiprocessor beside the queries, up to 3."""
    if dtype == torch.float32:
        return 1
    return 3 if max(spec.head_dim, spec.value_dim) <= 128 else 2


def _tile_rows(spec: AttentionSpec) -> int:
    return max(1, _QUERIES // power_of_two(spec.group))


def _num_splits(num_rows: int, spec: AttentionSpec) -> int:
    programs = ceil_div(num_rows, _tile_rows(spec)) * spec.num_kv_heads
    return min(_MOST_SPLITS, power_of_two(ceil_div(_PROGRAMS, programs)))


def _num_parts(num_rows: int, spec: AttentionSpec) -> int:
    return num_rows * spec.num_kv_heads * _num_splits(num_rows, spec)
