"""What a card can do, by its data sheet, and what a model asks of it, by its config.json. No torch, no card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from runner.errors import ConfigError

_PLAIN_MLP = frozenset(
    [
        "bloom",
        "codegen",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "mpt",
        "nemotron",
        "opt",
        "persimmon",
        "phi",
        "starcoder2",
    ]
)
"""Model types whose feed-forward part has two matrices; all others have a gate beside them."""
_TIED = frozenset(
    ["bloom", "cohere", "cohere2", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt", "starcoder2"]
)
"""Model types that use the embeddings as the head without saying so; the gemmas do too."""
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Card:
    """``memory`` in bytes, ``bandwidth`` in bytes a second, ``flops`` a second for dense 16-bit matrices.

    ``reached`` is the share of the limits that a whole run has been seen to reach, from low to high. ``device`` is a
    pattern for the name by which the driver knows the card.
    """

    title: str
    memory: float
    bandwidth: float
    flops: float
    device: str = ""
    reached: tuple[float, float] = (0.5, 0.85)
    is_cpu: bool = False


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "h100": Card("H100 80GB SXM", 80e9, 3.35e12, 989e12, "H100.*(HBM3|SXM)"),
        "h100_pcie": Card("H100 80GB PCIe", 80e9, 2.0e12, 756e12, "H100 PCIe"),
        "h200": Card("H200 141GB", 141e9, 4.8e12, 989e12, "H200"),
        "b200": Card("B200 180GB", 180e9, 8.0e12, 2250e12, "B200"),
        "a100": Card("A100 80GB SXM", 80e9, 2.04e12, 312e12, "A100.*SXM.*80GB"),
        "a100_40": Card("A100 40GB SXM", 40e9, 1.56e12, 312e12, "A100.*SXM.*40GB"),
        "l40s": Card("L40S 48GB", 48e9, 864e9, 362e12, "L40S"),
        "l4": Card("L4 24GB", 24e9, 300e9, 121e12, "L4$"),
        "a10g": Card("A10G 24GB", 24e9, 600e9, 70e12, "A10G"),
        "rtx4090": Card("GeForce RTX 4090 24GB", 24e9, 1.01e12, 165e12, "RTX 4090$"),
        "rtx5090": Card("GeForce RTX 5090 32GB", 32e9, 1.79e12, 210e12, "RTX 5090$"),
        # Two cores of a server in float32: no data sheet says what a rented core may use of the memory.
        "cpu": Card("2 CPU cores", 16e9, 20e9, 80e9, reached=(0.15, 0.8), is_cpu=True),
    }
)


def card_of(name: str) -> Card:
    """Raises ConfigError for a card that is not in the table."""
    if name not in CARDS:
        raise ConfigError(f"cost.card={name}: not in the table of cards; choose one of {', '.join(CARDS)}")
    return CARDS[name]


def card_of_device(name: str) -> Card | None:
    """By the driver's name of it; None for a card that is not in the table, and for a CPU, which has no name."""
    return next((card for card in CARDS.values() if card.device and re.search(card.device, name)), None)


@dataclass(frozen=True)
class ModelShape:
    """What a model costs: bytes read at each step, arithmetic a token, and bytes of cache a token."""

    step_bytes: float
    weight_bytes: float
    decode_flops: float
    prefill_flops: float
    kv_bytes: float

    def flops(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Arithmetic of the matrices; that of attention, some percent at a few thousand tokens, is left out."""
        return prompt_tokens * self.prefill_flops + completion_tokens * self.decode_flops

    def bytes_read(self, steps: float, kv_tokens: float) -> float:
        """``kv_tokens`` is the sum over the steps of the tokens whose cache each reads."""
        return steps * self.step_bytes + kv_tokens * self.kv_bytes


def model_shape(config: Mapping[str, Any], dtype: str = "auto") -> ModelShape | None:
    """From the language model's part of config.json; None where that says too little.

    A mixture of experts reads all of its experts at every step: a batch of some size chooses all of them.
    """
    if not _first(config, "hidden_size", "n_embd") or not _first(config, "num_hidden_layers", "n_layer"):
        return None
    size = _DTYPE_BYTES.get(dtype if dtype != "auto" else str(config.get("dtype") or config.get("torch_dtype")), 2)
    hidden, layers = _first(config, "hidden_size", "n_embd"), _first(config, "num_hidden_layers", "n_layer")
    attention, kv_width = _attention(config, hidden)
    all_mlp, used_mlp = _mlp(config, hidden)
    head = hidden * int(config.get("vocab_size", 0))
    body, used = layers * (attention + all_mlp), layers * (attention + used_mlp)
    model_type = str(config.get("model_type", ""))
    is_tied = config.get("tie_word_embeddings", model_type in _TIED or model_type.startswith("gemma"))
    embeddings = head if is_tied else 2 * head
    return ModelShape(
        step_bytes=size * (body + head),
        weight_bytes=size * (body + embeddings),
        decode_flops=2.0 * (used + head),
        prefill_flops=2.0 * used,
        kv_bytes=size * layers * kv_width,
    )


def _attention(config: Mapping[str, Any], hidden: int) -> tuple[int, int]:
    """Weights of one layer's attention, and the width of its keys and values together."""
    heads = _first(config, "num_attention_heads", "n_head") or 1
    kv_heads = _first(config, "num_key_value_heads") or heads
    head_dim = _first(config, "head_dim") or hidden // heads
    value_dim = head_dim
    if _first(config, "kv_lora_rank"):  # latent attention: the cache holds keys and values of every head
        head_dim = _first(config, "qk_nope_head_dim") + _first(config, "qk_rope_head_dim")
        value_dim, kv_heads = _first(config, "v_head_dim"), heads
    kv_width = kv_heads * (head_dim + value_dim)
    return hidden * (heads * head_dim + kv_width + heads * value_dim), kv_width


def _mlp(config: Mapping[str, Any], hidden: int) -> tuple[int, int]:
    """Weights of one layer's feed-forward part: all of them, and those that one token uses."""
    width = _first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    matrices = 2 if config.get("model_type") in _PLAIN_MLP else 3
    experts = _first(config, "num_experts", "num_local_experts", "n_routed_experts")
    if not experts:
        return matrices * hidden * width, matrices * hidden * width
    width = _first(config, "moe_intermediate_size") or width
    shared = _first(config, "n_shared_experts")
    active = _first(config, "num_experts_per_tok") or 1
    return 3 * hidden * width * (experts + shared), 3 * hidden * width * (active + shared)


def _first(config: Mapping[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if config.get(name)), 0)
