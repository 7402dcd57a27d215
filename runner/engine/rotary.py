"""Rotary scaling must not depend on which sequences share a step."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from runner.errors import ConfigError

logger = logging.getLogger(__name__)

_FROZEN = "frozen"  # any name that transformers does not update during a forward


def freeze_rotary(model: PreTrainedModel, max_model_len: int) -> None:
    """Fixes the frequencies of scalings that transformers chooses anew from the longest position of each batch.

    longrope keeps its short factors when no sequence can outgrow the original context, and its long ones
    otherwise. Dynamic NTK has a frequency for every length: ConfigError.
    """
    for module in model.modules():
        kinds = _rope_kinds(module)
        if any("dynamic" in kind for kind in kinds.values()):
            raise ConfigError("the frequencies of dynamic rotary scaling depend on the longest sequence of a batch")
        for layer_type, kind in kinds.items():
            if kind == "longrope":
                _freeze_longrope(module, layer_type, max_model_len)


def _rope_kinds(module: nn.Module) -> dict[str | None, str]:
    """Layer type -> rope type of a rotary module; the layer type is None where all layers share one."""
    kind = getattr(module, "rope_type", None)
    if isinstance(kind, str):
        return {None: kind}
    return dict(kind) if isinstance(kind, dict) else {}


def _freeze_longrope(module: Any, layer_type: str | None, max_model_len: int) -> None:
    prefix = "" if layer_type is None else f"{layer_type}_"
    parameters = module.config.rope_parameters if layer_type is None else module.config.rope_parameters[layer_type]
    original = parameters["original_max_position_embeddings"]
    frequencies = getattr(module, f"{prefix}inv_freq")
    if max_model_len > original:
        extra = {} if layer_type is None else {"layer_type": layer_type}
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, frequencies.device, seq_len=original + 1, **extra)
        frequencies.copy_(long)
        logger.warning(
            "longrope: its long factors serve every sequence, because max_model_len %d exceeds the original %d; "
            "set engine.max_model_len=%d for the short ones",
            max_model_len,
            original,
            original,
        )
    if layer_type is None:
        module.rope_type = _FROZEN
    else:
        module.rope_type = {**module.rope_type, layer_type: _FROZEN}
