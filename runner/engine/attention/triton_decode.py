"""Decode attention over a paged cache in Triton: one query token a row, so the reading of the cache is the cost.

Two ways of sharing the work:

- *runs*: a fixed number of programs, a few for each multiprocessor, take equal runs of consecutive tiles of all
  rows ("stream-K"). Ragged lengths leave no tail, and the grid depends on neither lengths nor rows.
- *splits*: each row is cut by its own length into at most `splits` pieces. A row's result then does not depend on
  the other rows, to the bit; short rows leave programs without work.

Either grid is fixed by the graph's bucket. Pieces of one row are combined, in order, by the program that finishes
last, so there is no second launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache
from runner.engine.attention.triton_decode_kernels import plan_kernel, runs_kernel, splits_kernel

_PLANNED_RUNS = 16  # runs that one program of the plan places
_TILE_BYTES = 2**15  # keys and values of a tile: num_stages of them must fit a multiprocessor several times
_MIN_DOT = 16  # the smallest side of a tensor core product


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How the kernel is cut. Exactly one of ``runs_per_sm`` and ``splits`` is not 0."""

    block_n: int = 64  # tokens of a tile
    num_warps: int = 4
    num_stages: int = 3
    runs_per_sm: int = 3  # as many as fit at once: a run that has to wait for another doubles the time
    splits: int = 0
    min_tiles: int = 4  # the smallest piece of a split row, in tiles
    max_registers: int | None = 168  # a thread's; addresses of the epilogue would otherwise crowd out programs


def choose_config(spec: AttentionSpec, dtype: torch.dtype, deterministic: bool) -> DecodeConfig:
    """What fits the chip best by registers and shared memory; wide heads and float32 take smaller tiles."""
    token_bytes = (_padded(spec.head_dim) + _padded(spec.value_dim)) * dtype.itemsize
    block_n = max(_MIN_DOT, min(64, 1 << (_TILE_BYTES // token_bytes).bit_length() - 1))
    if deterministic:
        return DecodeConfig(block_n=block_n, runs_per_sm=0, splits=8)
    return DecodeConfig(block_n=block_n)


class TritonDecode:
    """Decode for the given kinds of attention, with the work space that their launches share."""

    def __init__(
        self, specs: Sequence[AttentionSpec], max_rows: int, device: torch.device, configs: Sequence[DecodeConfig]
    ) -> None:
        """``configs`` go with ``specs``, one each."""
        self._configs = dict(zip(specs, configs, strict=True))
        self._max_rows = max_rows
        self._num_sms = _multiprocessors(device)
        self._plans = {
            _plan_key(spec, config): _Plan(self._num_runs(config), max_rows, device)
            for spec, config in self._configs.items()
            if config.runs_per_sm
        }
        parts = [self._num_parts(spec, config, max_rows) for spec, config in self._configs.items()]
        acc_size = max(count * spec.group * spec.value_dim for count, spec in zip(parts, specs, strict=True))
        stats_size = max(count * spec.group * 2 for count, spec in zip(parts, specs, strict=True))
        self._part_acc = torch.empty(acc_size, dtype=torch.float32, device=device)
        self._part_stats = torch.empty(stats_size, dtype=torch.float32, device=device)
        items = max_rows * max(spec.num_kv_heads for spec in specs)
        self._arrived = torch.zeros(items, dtype=torch.int32, device=device)

    def plan(self, batch: AttentionBatch) -> None:
        """Lays out the tiles of the step's decode rows, once for each kind of layout in the model."""
        assert batch.num_decode <= self._max_rows, "the backend was made for fewer decode rows"
        for (num_kv_heads, window, block_n, _), plan in self._plans.items():
            plan_kernel[(triton.cdiv(plan.num_runs, _PLANNED_RUNS),)](
                batch.decode_lens,
                plan.row_tiles,
                plan.run_rows,
                batch.num_decode,
                plan.num_runs,
                KV_HEADS=num_kv_heads,
                WINDOW=window,
                BLOCK_N=block_n,
                BLOCK_R=triton.next_power_of_2(max(plan.max_rows, 2)),
                BLOCK_RUNS=_PLANNED_RUNS,
            )

    def __call__(
        self,
        query: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """query [R, H, D] -> [R, H, Dv]."""
        config = self._configs[spec]
        out = torch.empty(query.shape[0], spec.num_heads, spec.value_dim, dtype=query.dtype, device=query.device)
        tensors = (query, cache.key, cache.value, out, query if sinks is None else sinks)
        rows = (batch.rows, batch.decode_lens, batch.block_table)
        space = (self._part_acc, self._part_stats, self._arrived)
        numbers = (spec.scale, batch.block_table.stride(0), *query.stride()[:2])
        strides = (*cache.key.stride()[:3], *cache.value.stride()[:3])
        constants = _constants(spec, cache, config, sinks)
        if config.runs_per_sm:
            plan = self._plans[_plan_key(spec, config)]
            layout = (plan.row_tiles, plan.run_rows)
            runs_kernel[(plan.num_runs,)](
                *tensors, *rows, *layout, *space, batch.num_decode, *numbers, *strides, **constants
            )
        else:
            grid = (spec.num_kv_heads * config.splits, batch.num_decode)
            cut = {"SPLITS": config.splits, "MIN_TILES": config.min_tiles}
            splits_kernel[grid](*tensors, *rows, *space, *numbers, *strides, **cut, **constants)
        return out

    def _num_runs(self, config: DecodeConfig) -> int:
        return self._num_sms * config.runs_per_sm

    def _num_parts(self, spec: AttentionSpec, config: DecodeConfig, max_rows: int) -> int:
        if config.runs_per_sm:
            return 2 * self._num_runs(config)
        return max_rows * spec.num_kv_heads * config.splits


class _Plan:
    """Where each run starts: static buffers, so that a CUDA graph finds them."""

    def __init__(self, num_runs: int, max_rows: int, device: torch.device) -> None:
        self.num_runs = num_runs
        self.max_rows = max_rows
        self.row_tiles = torch.zeros(max_rows + 1, dtype=torch.int32, device=device)
        self.run_rows = torch.zeros(num_runs, dtype=torch.int32, device=device)


def _plan_key(spec: AttentionSpec, config: DecodeConfig) -> tuple[int, int, int, int]:
    """What a layout of tiles depends on."""
    return spec.num_kv_heads, spec.window, config.block_n, config.runs_per_sm


def _constants(
    spec: AttentionSpec, cache: KVCache, config: DecodeConfig, sinks: torch.Tensor | None
) -> dict[str, object]:
    return {
        "KV_HEADS": spec.num_kv_heads,
        "GROUP": spec.group,
        "HEAD_DIM": spec.head_dim,
        "VALUE_DIM": spec.value_dim,
        "BLOCK_SIZE": cache.block_size,
        "WINDOW": spec.window,
        "SOFT_CAP": spec.soft_cap,
        "HAS_SINKS": sinks is not None,
        "PRECISION": "ieee" if cache.key.dtype == torch.float32 else "tf32",
        "BLOCK_N": config.block_n,
        "BLOCK_G": max(_MIN_DOT, triton.next_power_of_2(spec.group)),
        "BLOCK_D": _padded(spec.head_dim),
        "BLOCK_V": _padded(spec.value_dim),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "maxnreg": config.max_registers,
    }


def _padded(dim: int) -> int:
    return max(_MIN_DOT, triton.next_power_of_2(dim))


def _multiprocessors(device: torch.device) -> int:
    """Of a CPU, where the interpreter runs one program after another, two: enough to cut rows into parts."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
