"""What a model's attention layers call in place of their own attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from runner.engine.attention.base import AttentionBackend
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, KVCache


@dataclass(slots=True)
class StepContext:
    """What the layers need to know of the step that is running."""

    batch: AttentionBatch | None = None
    finishes_alone: bool = False  # `last` may be used
    last: LastTokens | None = None  # the last layer is wanted for these alone
    writes_alone: bool = False  # of the attention nothing is wanted but that it writes its keys and values


@dataclass(frozen=True, slots=True)
class LastTokens:
    """Some tokens of a step of prompts, each the last of its sequence."""

    index: Tensor  # int64 [K], packed
    batch: AttentionBatch  # of these tokens alone


class KeysWritten(Exception):  # noqa: N818 - no error: the rest of the layer is not wanted
    """Leaves a layer whose attention only had to write."""


class PagedLayer:
    """The attention of one layer over its part of the paged cache."""

    def __init__(self, spec: AttentionSpec, cache: KVCache, backend: AttentionBackend, context: StepContext) -> None:
        self.spec = spec
        self.cache = cache
        self._backend = backend
        self._context = context

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """query [1, H, T, D], key and value [1, KVH, T, D] -> [1, T, H, Dv]; the rest is in the spec already."""
        batch = self._context.batch
        assert batch is not None, "attention ran outside a step"
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if self._context.writes_alone:
            self._backend.write(k, v, self.cache, batch)
            raise KeysWritten
        return self._backend.attend(q, k, v, self.cache, batch, self.spec, sinks)[None]
