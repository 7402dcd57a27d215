"""Decode attention over a paged cache in Triton: one query token a row, so the reading of the cache is the cost.

Where rows and key/value heads fill the card, one program reads one head of one row. Where they do not, each row is
cut by its own length into pieces, and the program that finishes last combines them, in order: no second launch. The
grid is fixed by the number of rows, so a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.attention.triton_decode_kernels import decode_kernel
from runner.engine.attention.triton_prefix import TritonPrefix
from runner.engine.attention.triton_sizes import ceil_div, dot_side, power_of_two

_PROGRAMS = 256  # fill an H100's 132 multiprocessors: with two each, cutting rows further gains nothing
_MOST_SPLITS = 64
_DETERMINISTIC_SPLITS = 8
_TILE_TOKENS, _MIN_TILE_TOKENS = 64, 16
_TILE_BYTES = 2**15  # keys and values of a tile; num_stages of them must fit a multiprocessor twice
_WARP_NUMBERS = 1024  # of the answer that a warp holds beside its tile without spilling


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How the work is cut. The defaults are the fastest for heads of 128 in bfloat16 on an H100."""

    block_n: int = _TILE_TOKENS  # tokens of a tile
    num_warps: int = 4
    num_stages: int = 3
    splits: int | None = None  # pieces of a row at most; None chooses by the number of rows
    min_tiles: int = 4  # the smallest piece of a row: a smaller one costs more to combine than to read

    def splits_of(self, num_rows: int, num_kv_heads: int) -> int:
        """Pieces of a row at most, in a step of ``num_rows``: the smallest power of two that fills the card."""
        if self.splits is not None:
            return self.splits
        return min(_MOST_SPLITS, power_of_two(ceil_div(_PROGRAMS, num_rows * num_kv_heads)))

    def most_parts(self, max_rows: int, num_kv_heads: int) -> int:
        """The largest number of pieces in a step of up to ``max_rows`` rows; that step need not be the largest."""
        return max(rows * num_kv_heads * self.splits_of(rows, num_kv_heads) for rows in range(1, max_rows + 1))


def choose_config(spec: AttentionSpec, dtype: torch.dtype, deterministic: bool) -> DecodeConfig:
    """What fits the card: wide heads and float32 take smaller tiles, large groups and float32 more warps.

    With ``deterministic`` a row is cut by its own length alone, so that the other rows never change its bits.
    """
    token_bytes = (dot_side(spec.head_dim) + dot_side(spec.value_dim)) * dtype.itemsize
    fitting = 1 << (_TILE_BYTES // token_bytes).bit_length() - 1
    crowded = dtype == torch.float32 or dot_side(spec.group) * dot_side(spec.value_dim) > 4 * _WARP_NUMBERS
    return DecodeConfig(
        block_n=min(_TILE_TOKENS, max(_MIN_TILE_TOKENS, fitting)),
        num_warps=8 if crowded else 4,
        splits=_DETERMINISTIC_SPLITS if deterministic else None,
    )


class TritonDecode:
    """Decode for the given kinds of attention, with the work space that their launches share."""

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        max_rows: int,
        device: torch.device,
        configs: Sequence[DecodeConfig],
        prefix: TritonPrefix | None = None,
    ) -> None:
        """``configs`` go with ``specs``, one each. ``prefix`` reads shared beginnings; without it each row does."""
        self._configs = dict(zip(specs, configs, strict=True))
        self._max_rows = max_rows
        rows_of_parts = [
            spec.group * config.most_parts(max_rows, spec.num_kv_heads) for spec, config in self._configs.items()
        ]
        acc_size = max(rows * spec.value_dim for rows, spec in zip(rows_of_parts, specs, strict=True))
        self._part_acc = torch.empty(acc_size, dtype=torch.float32, device=device)
        self._part_stats = torch.empty(2 * max(rows_of_parts), dtype=torch.float32, device=device)
        self._prefix = prefix
        items = max_rows * max(spec.num_kv_heads for spec in specs)
        self._arrived = torch.zeros(items, dtype=torch.int32, device=device)

    def __call__(
        self,
        query: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None,
        new: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """query [R, H, D] -> [R, H, Dv].

        ``new`` has the key [R, KVH, D] and value [R, KVH, Dv] of each row's last token, to be written to the cache;
        without it they are there already.
        """
        num_rows = batch.num_decode
        assert num_rows <= self._max_rows, "the backend was made for fewer decode rows"
        config = self._configs[spec]
        splits = config.splits_of(num_rows, spec.num_kv_heads)
        shared = None if spec.window or self._prefix is None else batch.prefix
        parts = None if shared is None or self._prefix is None else self._prefix(query, cache, batch, shared, spec)
        new_key, new_value = (query, query) if new is None else new
        out = torch.empty(query.shape[0], spec.num_heads, spec.value_dim, dtype=query.dtype, device=query.device)
        decode_kernel[(spec.num_kv_heads * splits, num_rows)](
            query,
            new_key,
            new_value,
            cache.key,
            cache.value,
            out,
            query if sinks is None else sinks,
            batch.rows,
            batch.decode_lens,
            batch.block_table,
            self._part_acc,
            self._part_stats,
            self._arrived,
            batch.rows if shared is None else shared.sharing,
            self._part_acc if parts is None else parts.acc,
            self._part_stats if parts is None else parts.stats,
            splits,
            1 if parts is None else parts.num_splits,
            spec.scale,
            batch.block_table.stride(0),
            *query.stride()[:2],
            *new_key.stride()[:2],
            *new_value.stride()[:2],
            *cache.key.stride()[:3],
            *cache.value.stride()[:3],
            APPEND=new is not None,
            HAS_PREFIX=parts is not None,
            KV_HEADS=spec.num_kv_heads,
            GROUP=spec.group,
            HEAD_DIM=spec.head_dim,
            VALUE_DIM=spec.value_dim,
            BLOCK_SIZE=cache.block_size,
            WINDOW=spec.window,
            SOFT_CAP=spec.soft_cap,
            HAS_SINKS=sinks is not None,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            MIN_TILES=config.min_tiles,
            BLOCK_N=config.block_n,
            BLOCK_G=dot_side(spec.group),
            BLOCK_D=dot_side(spec.head_dim),
            BLOCK_V=dot_side(spec.value_dim),
            PREFIX_BLOCK_N=1 if parts is None else parts.block_n,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        return out
