"""Attention over a paged KV cache, behind one small interface.

    backend = load_backend("triton", specs, max_rows, device, dtype, block_size)
    backend.plan(batch)                                   # once a step
    backend.attend(query, key, value, cache, batch, spec)  # once a layer

Adding a backend is one file and its line in `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import torch

from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache, allocate_cache
from runner.errors import ConfigError

__all__ = ["BACKENDS", "AttentionBackend", "AttentionBatch", "AttentionSpec", "KVCache", "allocate_cache"]
__all__ += ["backend_class", "default_backend", "load_backend"]

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "reference": "runner.engine.attention.reference:ReferenceAttention",
        "triton": "runner.engine.attention.triton_backend:TritonAttention",
        "fa3": "runner.engine.attention.fa3:FlashAttention3",
    }
)


def default_backend(device: torch.device) -> str:
    """The backend that a plain install runs fastest on ``device``."""
    return "triton" if device.type == "cuda" else "reference"


def backend_class(name: str) -> type[AttentionBackend]:
    """The class behind a name; its module is imported only now."""
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)


def load_backend(
    name: str,
    specs: Sequence[AttentionSpec],
    max_rows: int,
    device: torch.device,
    dtype: torch.dtype,
    block_size: int,
    deterministic: bool = False,
) -> AttentionBackend:
    """Makes a backend, or raises ConfigError with the reason why it cannot serve this model."""
    chosen = backend_class(name)
    for spec in specs:
        reason = chosen.supports(spec, dtype, block_size)
        if reason is not None:
            raise ConfigError(f"attention backend {name!r} cannot run this model: {reason}")
    return chosen(specs, max_rows, device, dtype, deterministic)
