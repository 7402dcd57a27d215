"""One line on what holds a run back: what to change first for more speed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from runner.report.usage import Usage
from runner.types import EngineStats

_BUSY: Mapping[str, str] = MappingProxyType(
    {
        "read": "reading the input",
        "render": "rendering prompts",
        "finish": "turning answers into rows",
        "write": "writing rows",
    }
)
_BUSY_SHARE = 0.7  # of the time of this process that is not spent waiting
_IDLE_SHARE = 0.15
_PREFILL_SHARE = 0.5
_BANDWIDTH_SHARE = 0.6
_FLOPS_SHARE = 0.4
_FULL_CACHE = 0.9
_ROOMY_CACHE = 0.6


def bottleneck(
    stats: EngineStats, phases: Mapping[str, float], usage: Usage, max_num_seqs: int, rows_left: int, most_running: int
) -> str:
    """From what is known, the first that holds; empty when no row is left. ``most_running``: at once, so far."""
    busiest = max(_BUSY, key=lambda name: phases.get(name, 0.0))
    full = bool(stats.kv_blocks_total) and stats.kv_blocks_used >= _FULL_CACHE * stats.kv_blocks_total
    rules = (
        (rows_left <= 0, ""),
        (not stats.steps and not stats.num_running, "the engine is loading its model"),
        (
            sum(phases.get(name, 0.0) for name in _BUSY) > _BUSY_SHARE,
            f"this process, {_BUSY[busiest]}: {phases.get(busiest, 0.0):.0%} of its time",
        ),
        (not stats.num_waiting and 0 < rows_left <= stats.num_running, _last(stats.num_running, most_running)),
        (not stats.num_waiting and stats.num_running < max_num_seqs / 2, "too few rows reach the engine"),
        (
            bool(stats.device) and usage.idle > _IDLE_SHARE,
            f"the host: the GPU waits {usage.idle:.0%} of the time",
        ),
        (
            full and bool(stats.num_waiting or stats.preemptions),
            f"the KV cache is full at {stats.num_running} sequences: give it more memory or shorter answers",
        ),
        (usage.prefill > _PREFILL_SHARE, f"the engine, reading prompts: {usage.prefill:.0%} of the time"),
        (
            (usage.bandwidth or 0.0) > _BANDWIDTH_SHARE,
            f"the GPU's memory: {usage.bandwidth or 0.0:.0%} of its bandwidth used",
        ),
        ((usage.flops or 0.0) > _FLOPS_SHARE, f"the GPU's arithmetic: {usage.flops or 0.0:.0%} of it used"),
        (
            bool(stats.num_waiting) and stats.num_running >= max_num_seqs,
            f"the engine, with engine.max_num_seqs={max_num_seqs} sequences at once{_room(stats)}",
        ),
    )
    return next((text for holds, text in rules if holds), "the engine")


def _last(num_running: int, most_running: int) -> str:
    """All that is left runs; as long as the engine is half as busy as it ever was, that is no tail yet."""
    if 2 * num_running > most_running:
        return f"few rows: the {num_running} that are left run at once" if num_running > 1 else "a single answer"
    return f"the tail: the last {num_running} answers" if num_running > 1 else "the tail: the last answer"


def _room(stats: EngineStats) -> str:
    """What more sequences would find, where the engine has a cache."""
    if not stats.kv_blocks_total or stats.kv_blocks_used > _ROOMY_CACHE * stats.kv_blocks_total:
        return ""
    return f": the KV cache has room for more, {stats.kv_blocks_used / stats.kv_blocks_total:.0%} is used"
