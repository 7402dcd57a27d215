"""What benchmarks/attention.py checks and times: cases, shapes and candidate configurations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from attention_cases import Case

from runner.engine.attention import AttentionSpec
from runner.engine.attention.triton_decode import DecodeConfig
from runner.engine.attention.triton_prefill import PrefillConfig

BF16 = torch.bfloat16

CHECKS = {
    "ragged": Case(decode=(1, 15, 16, 17, 64, 65, 300, 2000), heads=32, kv_heads=8, head_dim=128, padding_rows=2),
    "one long row": Case(decode=(20000, 3), heads=32, kv_heads=8, head_dim=128),
    "many rows": Case(decode=tuple(range(1, 1000, 7)), heads=8, kv_heads=2, head_dim=128),
    "group of 3, head 64": Case(decode=(40, 700), prefill=((0, 300), (0, 5)), heads=9, kv_heads=3),
    "group of 7": Case(decode=(40, 700), prefill=((0, 300), (77, 200)), heads=14, kv_heads=2, head_dim=128),
    "mha, head 80": Case(decode=(40, 700), prefill=((0, 300), (77, 200)), heads=4, kv_heads=4, head_dim=80),
    "head 256, window, cap": Case(
        decode=(40, 700), prefill=((0, 300), (77, 200)), heads=8, kv_heads=4, head_dim=256, window=128, soft_cap=50.0
    ),
    "sinks, window": Case(
        decode=(40, 700), prefill=((0, 300), (77, 200)), heads=16, kv_heads=2, window=128, sinks=True
    ),
    "window, fresh": Case(prefill=((0, 300), (0, 1000)), heads=8, kv_heads=4, head_dim=128, window=100),
    "mixed, blocks of 32": Case(
        decode=(33, 900), prefill=((0, 257), (1000, 129)), heads=32, kv_heads=8, head_dim=128, block_size=32
    ),
}


@dataclass(frozen=True)
class DecodeShape:
    """Rows of one decode step; ``longest`` > ``context`` spreads their lengths evenly between the two."""

    name: str
    rows: int
    context: int
    longest: int = 0
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    block_size: int = 16

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(self.heads, self.kv_heads, self.head_dim, self.head_dim, self.head_dim**-0.5)

    def lengths(self) -> torch.Tensor:
        if self.longest <= self.context:
            return torch.full((self.rows,), self.context, dtype=torch.int32)
        generator = torch.Generator().manual_seed(1)
        spread = torch.linspace(self.context, self.longest, self.rows).to(torch.int32)
        return spread[torch.randperm(self.rows, generator=generator)]

    def read_bytes(self) -> int:
        return int(self.lengths().sum()) * self.kv_heads * self.head_dim * 2 * BF16.itemsize

    def num_caches(self) -> int:
        """Caches that must take turns so that none is still in L2 when its turn comes."""
        return max(1, min(6, -(-600_000_000 // self.read_bytes())))


SHAPES = (
    DecodeShape("256 x 900", 256, 900),
    DecodeShape("32 x 1152", 32, 1152),
    DecodeShape("32 x 8192", 32, 8192),
    DecodeShape("256 x 100..2000", 256, 100, 2000),
    DecodeShape("512 x 64..320, 16/8 heads", 512, 64, 320, heads=16),
)


def _runs(block_n: int, num_warps: int, num_stages: int, per_sm: int, registers: int | None = None) -> DecodeConfig:
    return DecodeConfig(block_n, num_warps, num_stages, runs_per_sm=per_sm, max_registers=registers)


def _splits(
    block_n: int, num_warps: int, num_stages: int, splits: int, min_tiles: int, registers: int | None = None
) -> DecodeConfig:
    return DecodeConfig(block_n, num_warps, num_stages, 0, splits, min_tiles, registers)


CANDIDATES = (
    _runs(64, 4, 3, 3, 168),
    _runs(64, 4, 3, 2),
    _runs(64, 4, 2, 4, 128),
    _runs(64, 4, 2, 3, 168),
    _runs(64, 4, 4, 2),
    _runs(64, 2, 3, 3),
    _runs(64, 8, 3, 2, 128),
    _runs(64, 8, 3, 3, 80),
    _runs(128, 4, 2, 2),
    _runs(128, 4, 3, 1),
    _runs(128, 8, 2, 2, 128),
    _runs(128, 8, 3, 1),
    _runs(32, 4, 3, 4, 128),
    _runs(32, 4, 4, 4, 128),
    _runs(32, 4, 5, 3, 168),
    _runs(32, 2, 3, 5, 200),
    _runs(32, 2, 4, 4),
    _runs(32, 2, 6, 2),
    _runs(32, 1, 3, 6),
    _runs(32, 1, 4, 4),
    _runs(16, 1, 4, 7),
    _runs(16, 1, 6, 5),
    _splits(64, 4, 3, 1, 1),
    _splits(64, 4, 3, 4, 4),
    _splits(64, 4, 3, 8, 4),
    _splits(64, 4, 3, 16, 4),
    _splits(64, 4, 2, 8, 4),
    _splits(64, 4, 4, 8, 4),
    _splits(64, 2, 3, 8, 4),
    _splits(128, 4, 2, 8, 2),
    _splits(32, 4, 4, 8, 8),
    _splits(32, 2, 4, 8, 8),
    _splits(32, 1, 4, 8, 8),
)

PREFILL_CANDIDATES = (
    PrefillConfig(128, 64, 8, 3),
    PrefillConfig(128, 64, 8, 2),
    PrefillConfig(128, 128, 8, 2),
    PrefillConfig(128, 128, 8, 3),
    PrefillConfig(128, 64, 4, 3),
    PrefillConfig(64, 64, 4, 2),
    PrefillConfig(64, 64, 4, 3),
    PrefillConfig(64, 128, 4, 2),
)
PREFILLS = {
    "16 x 1024 fresh": Case(prefill=((0, 1024),) * 16, heads=32, kv_heads=8, head_dim=128, dtype=BF16),
    "100..1024 fresh": Case(
        prefill=tuple((0, n) for n in range(100, 1024, 66)), heads=32, kv_heads=8, head_dim=128, dtype=BF16
    ),
    "2 x 6144 + 2048": Case(prefill=((6144, 2048),) * 2, heads=32, kv_heads=8, head_dim=128, dtype=BF16),
    "64 x 2048 + 64": Case(prefill=((2048, 64),) * 64, heads=32, kv_heads=8, head_dim=128, dtype=BF16),
}
