"""The workloads that engines are timed on, as token ids, and the model shapes. Seeded: the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}
QWEN3_06B = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPES = {"8b": LLAMA_8B, "06b": QWEN3_06B, "tiny": TINY}  # tiny: to try the scripts on a CPU
_IDS = (10, 30000)


@dataclass(frozen=True)
class Item:
    """One row: its prompt and the exact number of tokens that it must get."""

    prompt: list[int]
    num_outputs: int


def _prompt(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(*_IDS) for _ in range(length)]


def fixed(count: int, num_inputs: int, num_outputs: int, seed: int = 0) -> list[Item]:
    draw = random.Random(seed)
    return [Item(_prompt(draw, num_inputs), num_outputs) for _ in range(count)]


def uniform(count: int, inputs: tuple[int, int], outputs: tuple[int, int], seed: int) -> list[Item]:
    """Lengths uniform in the given ranges, ends included."""
    draw = random.Random(seed)
    return [Item(_prompt(draw, draw.randint(*inputs)), draw.randint(*outputs)) for _ in range(count)]


def behind_prefix(count: int, shared: int, own: int, num_outputs: int, seed: int = 2) -> list[Item]:
    draw = random.Random(seed)
    head = _prompt(draw, shared)
    return [Item(head + _prompt(draw, own), num_outputs) for _ in range(count)]


def doubled(items: list[Item], seed: int) -> list[Item]:
    """The same lengths once more with other prompts: both halves are the same work, and share nothing."""
    draw = random.Random(seed)
    return items + [Item(_prompt(draw, len(item.prompt)), item.num_outputs) for item in items]


WORKLOADS: dict[str, Callable[[], list[Item]]] = {
    "warm": lambda: fixed(32, 64, 16, seed=9),
    "seed32": lambda: fixed(32, 128, 2048),
    "seed8k": lambda: fixed(32, 128, 8192),
    "mixed512": lambda: uniform(512, (100, 1024), (100, 1024), seed=0),
    "mixed512x2": lambda: doubled(WORKLOADS["mixed512"](), seed=4),
    "mixed512b": lambda: uniform(512, (100, 1024), (100, 1024), seed=3),  # other prompts: the first run warms up
    "nano": lambda: uniform(256, (100, 1024), (100, 1024), seed=0),
    "short": lambda: uniform(20_000, (64, 256), (8, 64), seed=1),
    "prefix": lambda: behind_prefix(4000, 2048, 64, 128),
    "few": lambda: uniform(24, (10, 40), (4, 16), seed=5),  # to try the scripts on
    "fewx2": lambda: doubled(WORKLOADS["few"](), seed=6),
}
