"""Where the time of a stretch of a run went, and how much of the card it used.

At each moment the device computes, or it waits: for the host between two steps, or for this process. So prefill,
decode, host and I/O add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runner.report.cards import Card, ModelShape
from runner.report.throughput import Reading

PHASES = ("read", "render", "wait", "finish", "write")
"""What this process does: read rows, render them, wait for the engine, turn answers into rows, write those."""

_IO_PHASES = ("read", "write")
_WORK_PHASES = ("read", "render", "finish", "write")


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of the time. ``flops`` and ``bandwidth`` are shares of the card's data sheet; None where not known."""

    prefill: float = 0.0
    decode: float = 0.0
    host: float = 0.0
    io: float = 0.0
    flops: float | None = None
    bandwidth: float | None = None

    @property
    def idle(self) -> float:
        """The share in which the device computed nothing."""
        return self.host + self.io


def usage_between(before: Reading, after: Reading, shape: ModelShape | None, card: Card | None) -> Usage:
    """The stretch between two readings of one engine."""
    seconds = after.at - before.at
    if seconds <= 0:
        return Usage()
    old, new = before.stats, after.stats
    prefill, decode = new.prefill_seconds - old.prefill_seconds, new.decode_seconds - old.decode_seconds
    stalled = min(new.idle_seconds - old.idle_seconds, seconds)
    starved = max(seconds - prefill - decode - stalled, 0.0)
    io = starved * _io_share(shares_between(before.phases, after.phases))
    total = prefill + decode + stalled + starved
    shares = Usage(*(round(part / total, 4) for part in (prefill, decode, stalled + starved - io, io)))
    if shape is None or card is None:
        return shares
    prompt, made = new.prompt_tokens - old.prompt_tokens, new.completion_tokens - old.completion_tokens
    tokens = new.kv_tokens_read - old.kv_tokens_read - (new.kv_tokens_shared - old.kv_tokens_shared)
    num_bytes = shape.bytes_read(new.steps - old.steps, tokens)
    return replace(
        shares,
        flops=round(shape.flops(prompt, made) / total / card.flops, 4),
        bandwidth=round(num_bytes / total / card.bandwidth, 4),
    )


def shares_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The share of each phase in the time between two totals."""
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    total = sum(spent.values())
    return {name: round(seconds / total, 4) if total else 0.0 for name, seconds in spent.items()}


def _io_share(phases: Mapping[str, float]) -> float:
    """Of the work of this process, for which an engine without any waits."""
    work = sum(phases.get(name, 0.0) for name in _WORK_PHASES)
    return sum(phases.get(name, 0.0) for name in _IO_PHASES) / work if work else 0.0
