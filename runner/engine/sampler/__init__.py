"""Choosing the next token: one pass over the logits, per-row parameters, noise that hangs on (seed, position).

``SamplingState`` holds the parameters over slots, on the device; ``load_sampler`` gives the sampler of a device.
"""

from runner.engine.sampler.base import LogprobsBuffer, Sampler, Status, Variant, load_sampler
from runner.engine.sampler.state import (
    ROW,
    WORDS,
    SamplingState,
    bias_entries,
    needs_edits,
    pack,
    stop_ids_of,
)

__all__ = [
    "ROW",
    "WORDS",
    "LogprobsBuffer",
    "Sampler",
    "SamplingState",
    "Status",
    "Variant",
    "bias_entries",
    "load_sampler",
    "needs_edits",
    "pack",
    "stop_ids_of",
]
