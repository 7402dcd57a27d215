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
    "as many pieces as may be": Case(decode=(20000,), heads=4, kv_heads=1, head_dim=128),
    "many rows": Case(decode=tuple(range(1, 1000, 7)), heads=8, kv_heads=2, head_dim=128),
    "group of 3, head 64": Case(decode=(40, 700), prefill=((0, 300), (0, 5)), heads=9, kv_heads=3),
    "group of 7": Case(decode=(40, 700), prefill=((0, 300), (77, 200)), heads=14, kv_heads=2, head_dim=128),
    "mha, head 80": Case(decode=(40, 700), prefill=((0, 300), (77, 200)), heads=4, kv_heads=4, head_dim=80),
    "head 256, window, cap": Case(
        decode=(40, 700), prefill=((0, 300), (77, 200)), heads=8, kv_heads=4, head_dim=256, window=128, soft_cap=50.0
    ),
    "group of 64, head 256": Case(decode=(40, 2000), prefill=((77, 200),), heads=64, kv_heads=1, head_dim=256),
    "values narrower": Case(
        decode=(40, 700), prefill=((0, 300), (77, 200)), heads=16, kv_heads=16, head_dim=192, value_dim=128
    ),
    "sinks, window": Case(
        decode=(40, 700), prefill=((0, 300), (77, 200)), heads=16, kv_heads=2, window=128, sinks=True
    ),
    "window, fresh": Case(prefill=((0, 300), (0, 1000)), heads=8, kv_heads=4, head_dim=128, window=100),
    "blocks of 32": Case(
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
    last: int = 0  # the length of the last row, where it is not as the others
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    block_size: int = 16

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(self.heads, self.kv_heads, self.head_dim, self.head_dim, self.head_dim**-0.5)

    def lengths(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        spread = torch.linspace(self.context, max(self.context, self.longest), self.rows).to(torch.int32)
        lengths = spread[torch.randperm(self.rows, generator=generator)]
        lengths[-1] = self.last or lengths[-1]
        return lengths

    def read_bytes(self) -> int:
        return int(self.lengths().sum()) * self.kv_heads * self.head_dim * 2 * BF16.itemsize

    def num_caches(self) -> int:
        """Caches that must take turns so that none is still in L2 when its turn comes."""
        return max(1, min(6, -(-600_000_000 // self.read_bytes())))


FULL = (  # rows and heads fill the card
    DecodeShape("256 x 900", 256, 900),
    DecodeShape("32 x 1152", 32, 1152),
    DecodeShape("32 x 8192", 32, 8192),
    DecodeShape("256 x 100..2000", 256, 100, 2000),
    DecodeShape("512 x 64..320, 16/8 heads", 512, 64, 320, heads=16),
    DecodeShape("32 x 1024, the last 32768", 32, 1024, last=32768),
)
FEW = (  # they do not
    DecodeShape("1 x 8192", 1, 8192),
    DecodeShape("4 x 8192", 4, 8192),
    DecodeShape("8 x 8192", 8, 8192),
    DecodeShape("16 x 8192", 16, 8192),
    DecodeShape("4 x 1024", 4, 1024),
)
FULL_CANDIDATES = (
    DecodeConfig(),
    DecodeConfig(splits=4),
    DecodeConfig(splits=8),
    DecodeConfig(num_stages=2),
    DecodeConfig(num_stages=4),
    DecodeConfig(block_n=128, num_stages=2, min_tiles=2),
    DecodeConfig(block_n=32, num_stages=4, min_tiles=8),
)
FEW_CANDIDATES = (
    DecodeConfig(),
    *(DecodeConfig(splits=splits) for splits in (2, 4, 8, 16, 32, 64)),
    *(DecodeConfig(splits=splits, min_tiles=2) for splits in (16, 32, 64)),
    DecodeConfig(min_tiles=1),
    DecodeConfig(num_stages=4),
)
DECODES = {**dict.fromkeys(FULL, FULL_CANDIDATES), **dict.fromkeys(FEW, FEW_CANDIDATES)}


def _llama(*prefill: tuple[int, int]) -> Case:
    return Case(prefill=prefill, heads=32, kv_heads=8, head_dim=128, dtype=BF16)


PREFILLS = {
    "8 x 1024 fresh": _llama(*[(0, 1024)] * 8),
    "16 x 512 fresh": _llama(*[(0, 512)] * 16),
    "2048 behind 2048": _llama((2048, 2048)),
    "2048 behind 6144": _llama((6144, 2048)),
    "128 x 64 behind the same 2048": _llama(*[(2048, 64)] * 128),
}
SHARED_PREFIX = frozenset({"128 x 64 behind the same 2048"})
PREFILL_CANDIDATES = (
    PrefillConfig(128, 64, 8, 3),
    PrefillConfig(128, 64, 8, 2),
    PrefillConfig(128, 128, 8, 2),
    PrefillConfig(64, 64, 4, 2),
    PrefillConfig(64, 64, 4, 3),
    PrefillConfig(64, 128, 4, 2),
)
