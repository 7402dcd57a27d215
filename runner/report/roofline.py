"""How long a job takes at the limits of a card: weights and cache read at every step, arithmetic for every token.

A step takes max(weight bytes / bandwidth, rows x arithmetic) + cache bytes / bandwidth; prompts add their arithmetic.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from runner.config import EngineConfig
from runner.report.cards import Card, ModelShape

_MAX_SIMULATED = 20_000
_WORKSPACE_BYTES = 3e9  # activations of the largest step, graphs, the CUDA context


@dataclass(frozen=True)
class Load:
    """Prompt and answer lengths of sequences, in tokens, in the order in which they run; a sample of ``total``."""

    prompts: Sequence[int]
    answers: Sequence[int]
    total: float


@dataclass(frozen=True)
class Fit:
    """What of the card is left for the cache, and how many sequences of mean length that holds."""

    kv_bytes: float
    kv_tokens: int
    sequences: int


def fit(card: Card, shape: ModelShape, engine: EngineConfig, mean_tokens: float) -> Fit:
    """Zeros where the weights alone do not fit."""
    workspace = _WORKSPACE_BYTES * min(1.0, card.memory / 40e9)
    kv_bytes = max(card.memory * engine.gpu_memory_utilization - shape.weight_bytes - workspace, 0.0)
    if card.is_cpu:
        kv_bytes = engine.cpu_kv_cache_gib * 2**30
    tokens = int(kv_bytes / shape.kv_bytes)
    return Fit(kv_bytes, tokens, int(tokens / max(mean_tokens, 1.0)))


def seconds_at_limit(load: Load, card: Card, shape: ModelShape, max_running: int, cached_share: float = 0.0) -> float:
    """Seconds at the limits of the card; ``cached_share`` of the prompt tokens are read from the prefix cache."""
    count = len(load.prompts)
    if not count:
        return 0.0
    scale = load.total / count
    computed = sum(load.prompts) * (1.0 - cached_share)
    prefill = shape.flops(computed, 0) / card.flops
    chosen = slice(0, _MAX_SIMULATED)
    decode = _decode_seconds(load.prompts[chosen], load.answers[chosen], card, shape, max(max_running, 1))
    simulated = sum(load.answers[chosen])
    if count > _MAX_SIMULATED and simulated:
        decode *= sum(load.answers) / simulated
    return scale * (prefill + decode) if scale >= 1 else prefill + decode


def _decode_seconds(
    prompts: Sequence[int], answers: Sequence[int], card: Card, shape: ModelShape, max_running: int
) -> float:
    """Runs the sequences through ``max_running`` places; between two ends a step only grows by its cache."""
    ends: list[tuple[int, int]] = []  # (step at which it ends, its prompt minus the step at which it began)
    now, waiting, seconds, kv = 0, 0, 0.0, 0.0
    while waiting < len(prompts) or ends:
        while waiting < len(prompts) and len(ends) < max_running:
            heapq.heappush(ends, (now + answers[waiting], prompts[waiting] - now))
            kv += prompts[waiting]
            waiting += 1
        until, rows = ends[0][0], len(ends)
        steps = until - now
        linears = max(shape.bytes_read(steps, 0) / card.bandwidth, shape.flops(0, steps * rows) / card.flops)
        seconds += linears + shape.bytes_read(0, steps * kv + rows * steps * steps / 2) / card.bandwidth
        kv += rows * steps
        now = until
        while ends and ends[0][0] == now:
            kv -= heapq.heappop(ends)[1] + now
    return seconds
