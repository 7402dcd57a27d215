"""The beginning that decode rows share, read once for a tile of rows instead of once a row.

A tile's queries are one matrix, so the products are those of a prefill, and the cache is read by a few programs. What
they find goes to a work space as parts, which `triton_decode` combines with the rest of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache, SharedPrefix
from runner.engine.attention.triton_prefix_kernels import prefix_kernel
from runner.engine.attention.triton_sizes import ceil_div, dot_side, power_of_two

_PROGRAMS = 132  # one for each multiprocessor of an H100
_MOST_SPLITS = 16


@dataclass(frozen=True, slots=True)
class PrefixConfig:
    """How the work is cut. The defaults are the fastest for heads of 128 in bfloat16 on an H100."""

    queries: int = 128  # of a tile: rows times heads of a group
    block_n: int = 64  # tokens of the beginning at a time; divides PREFIX_TOKENS
    num_warps: int = 8
    num_stages: int = 3


def choose_prefix_config(spec: AttentionSpec, dtype: torch.dtype) -> PrefixConfig:
    """What fits a multiprocessor of any card with tensor cores for bfloat16: 99 KiB, an H100's being 227."""
    if dtype == torch.float32:
        return PrefixConfig(queries=32, block_n=16, num_stages=1)
    if max(spec.head_dim, spec.value_dim) > 128:
        return PrefixConfig(queries=64, block_n=32, num_warps=4, num_stages=2)
    return PrefixConfig()


@dataclass(frozen=True, slots=True)
class PrefixParts:
    """Where the parts are: ``num_splits`` a row and head, float32 ``acc`` [parts, G, Dv], ``stats`` [parts, 2, G].

    ``block_n`` tokens are never cut: parts are of as many, or of a multiple.
    """

    acc: torch.Tensor
    stats: torch.Tensor
    num_splits: int
    block_n: int


class TritonPrefix:
    """Reads shared beginnings, with the work space that its launches share."""

    def __init__(self, specs: Sequence[AttentionSpec], max_rows: int, device: torch.device, dtype: torch.dtype) -> None:
        self._configs = {spec: choose_prefix_config(spec, dtype) for spec in specs}
        rows_of_parts = [
            max(_num_parts(rows, spec, config) for rows in range(1, max_rows + 1)) * spec.group
            for spec, config in self._configs.items()
        ]
        acc_size = max(rows * spec.value_dim for rows, spec in zip(rows_of_parts, specs, strict=True))
        self._acc = torch.empty(acc_size, dtype=torch.float32, device=device)
        self._stats = torch.empty(2 * max(rows_of_parts), dtype=torch.float32, device=device)

    def __call__(
        self, query: torch.Tensor, cache: KVCache, batch: AttentionBatch, prefix: SharedPrefix, spec: AttentionSpec
    ) -> PrefixParts:
        """query [R, H, D]; the parts live until the next call."""
        config = self._configs[spec]
        rows, splits = _tile_rows(spec, config), _num_splits(batch.num_decode, spec, config)
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
            BLOCK_N=config.block_n,
            BLOCK_G=power_of_two(spec.group),
            BLOCK_D=dot_side(spec.head_dim),
            BLOCK_V=dot_side(spec.value_dim),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        return PrefixParts(self._acc, self._stats, splits, config.block_n)


def _tile_rows(spec: AttentionSpec, config: PrefixConfig) -> int:
    return max(1, config.queries // power_of_two(spec.group))


def _num_splits(num_rows: int, spec: AttentionSpec, config: PrefixConfig) -> int:
    programs = ceil_div(num_rows, _tile_rows(spec, config)) * spec.num_kv_heads
    return min(_MOST_SPLITS, power_of_two(ceil_div(_PROGRAMS, programs)))


def _num_parts(num_rows: int, spec: AttentionSpec, config: PrefixConfig) -> int:
    return num_rows * spec.num_kv_heads * _num_splits(num_rows, spec, config)
