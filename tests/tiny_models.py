"""Tiny random models of every served family: two to four layers, grouped heads, windows and caps that matter.

Weights are scaled so that attention is far from uniform and the logits have a spread of a few units: a wrong
mask, window, scale or position changes greedy tokens, and rounding does not.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_TOKEN_ID = 2
VOCAB_SIZE = 272  # 3 special tokens, 256 bytes, and a padded end as real checkpoints have

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": EOS_TOKEN_ID,
    "pad_token_id": 0,
}

_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 16},
    "qwen2": {"tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": 12, "head_dim": 16},
    "gemma2": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 6.0,
        "layer_types": _MIXED_LAYERS,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 10,
        "layer_types": _MIXED_LAYERS,
        "tie_word_embeddings": True,
    },
    "phi3": {"sliding_window": 14},
    "gpt_neox": {"num_key_value_heads": None},
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.8,
        "logits_scaling": 2.0,
    },
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1], "use_sliding_window": False},
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
        "head_dim": 16,
        "use_sliding_window": False,
    },
}


def families() -> list[str]:
    """The names that `tiny_model` takes."""
    return list(_FAMILIES)


def tiny_config(family: str, **overrides: Any) -> Any:
    """The configuration of a family, as transformers' config object."""
    values = {**_SHAPE, **_FAMILIES[family], **overrides}
    return AutoConfig.for_model(family, **{key: value for key, value in values.items() if value is not None})


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model in float32 and eval mode, the same for the same seed. ``overrides`` go into its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=torch.float32)
        scale_weights(model)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def scale_weights(model: PreTrainedModel) -> None:
    """Redraws every weight so that each layer matters: spread-out logits, peaked attention, no trivial bias or norm.

    Tied embeddings are drawn small and the last norm large: else the input token's own logit always wins.
    """
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * (0.1 if name.endswith("bias") else 0.3))
        elif "embed_out" in name or "lm_head" in name:
            parameter.normal_(0.0, 3.0 / math.sqrt(parameter.shape[-1]))
        elif "embed" in name:
            parameter.normal_(0.0, 0.15 / math.sqrt(parameter.shape[-1]) if tied else 0.5)
        else:
            parameter.normal_(0.0, 1.6 / math.sqrt(parameter.shape[-1]))
    if tied:
        model.model.norm.weight.add_(19.0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, three special tokens, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tiny_model(folder: Path, family: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """Writes model, tokenizer and generation_config.json into ``folder`` and returns it."""
    model = tiny_model(family, seed, **overrides)
    model.generation_config.eos_token_id = EOS_TOKEN_ID
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
