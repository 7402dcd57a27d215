"""What every attention backend can do.

A backend is made once per engine for all the kinds of attention in its model. Each step the engine calls `plan`
once and then `attend` once per layer, on the same stream and inside the same CUDA graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache


class AttentionBackend(ABC):
    """Attention over a paged cache.

    Every tensor of queries, keys and values is [tokens, heads, dim] with a dense last dimension. A backend may keep
    work space of its own, so two steps must not run on one backend at the same time; their decode parts never, a
    decode and a prefill part may.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        max_rows: int,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool = False,
    ) -> None:
        """``specs`` are the kinds of attention in the model; ``max_rows`` bounds the decode rows of a step.

        With ``deterministic`` the bits of a decode row do not depend on the other rows of its step.
        """
        self.specs = tuple(dict.fromkeys(specs))
        self.max_rows = max_rows
        self.device = device
        self.dtype = dtype
        self.deterministic = deterministic

    @classmethod
    @abstractmethod
    def supports(cls, spec: AttentionSpec, dtype: torch.dtype, block_size: int) -> str | None:
        """None, or in one phrase why this backend cannot serve ``spec``."""

    def plan(self, batch: AttentionBatch) -> None:  # noqa: B027 - most backends have nothing to plan
        """Prepares what all layers of the step share. Device work only: it is captured with the step."""

    @abstractmethod
    def write(self, key: torch.Tensor, value: torch.Tensor, cache: KVCache, batch: AttentionBatch) -> None:
        """Stores key [T, KVH, D] and value [T, KVH, Dv] of every token at ``batch.slot_mapping``."""

    @abstractmethod
    def decode(
        self,
        query: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of the decode rows, query [R, H, D] -> [R, H, Dv]; their own KV is already written."""

    @abstractmethod
    def prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Causal attention of the prefill tokens, query [N, H, D] -> [N, H, Dv].

        ``key`` and ``value`` are those of the same tokens, already written too; with ``batch.fresh`` they are all
        that is attended to. Rows past ``cu_seqlens_q[-1]`` are padding and come back undefined.
        """

    def append_and_decode(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`write` and `decode` of a step of decode rows alone; a backend may do both in one launch."""
        self.write(key, value, cache, batch)
        return self.decode(query, cache, batch, spec, sinks)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        spec: AttentionSpec,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer of a step: writes the KV of all tokens, then query [T, H, D] -> [T, H, Dv].

        ``sinks`` [H] are the logits of a spec with sinks, in the scale of the scores.
        """
        if batch.num_prefill == 0:
            return self.append_and_decode(query, key, value, cache, batch, spec, sinks)
        assert batch.num_decode == 0, "a step has prompts or rows"
        self.write(key, value, cache, batch)
        return self.prefill(query, key, value, cache, batch, spec, sinks)
