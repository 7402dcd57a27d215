"""Hands the attention of transformers' models over to the engine, without touching their code.

transformers looks its attention function up by name; ours is registered as "paged" and calls the object that was
attached to the attention module, so there is no global state and two models can live in one process.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from runner.errors import ConfigError

IMPLEMENTATION = "paged"
_ATTRIBUTE = "paged_attention"


class LayerAttention(Protocol):
    """The attention of one layer: query [1, H, T, D], key [1, KVH, T, D], value [1, KVH, T, Dv] -> [1, T, H, Dv].

    ``sliding_window`` counts the tokens a query sees, itself included; ``softcap`` bounds the scores; ``sinks`` [H]
    are logits that join the softmax. None means that the model passed none.
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor: ...


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer. What else it passes is for training or for its own caches."""
    if attention_mask is not None:
        raise ConfigError(f"{type(module).__name__} masks its attention by itself, which packed sequences cannot have")
    layer = getattr(module, _ATTRIBUTE)
    return layer(query, key, value, scaling, sliding_window, softcap, s_aux), None


def select_paged(model: PreTrainedModel) -> None:
    """Makes the model call `paged_attention`. A model that cannot is only logged about; `probe` finds it."""
    AttentionInterface.register(IMPLEMENTATION, paged_attention)
    model.set_attn_implementation(IMPLEMENTATION)


def attach(module: nn.Module, layer: LayerAttention) -> None:
    """From now on the attention of ``module`` is ``layer``."""
    setattr(module, _ATTRIBUTE, layer)


def detach(module: nn.Module) -> None:
    """Undoes `attach`."""
    delattr(module, _ATTRIBUTE)
