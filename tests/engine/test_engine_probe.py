"""Every family we name is accepted and right; what would come out silently wrong is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import families, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from runner.engine.attention.metadata import AttentionSpec
from runner.engine.probe import bind, probe
from runner.errors import ConfigError

MAX_MODEL_LEN = 512
WINDOWS = {"mistral": [12, 12], "gemma2": [12, 0, 12, 0], "gemma3_text": [10, 0, 10, 0], "phi3": [14, 14]}
SCALES = {"granite": 0.4, "gemma2": 24**-0.5, "gemma3_text": 24**-0.5, "qwen3": 32**-0.5}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0] * 8,
}


def build(kind: str, **values: Any) -> PreTrainedModel:
    """A random model of a family that `tiny_models` does not know."""
    torch.manual_seed(0)
    shape = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **{**shape, **values})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", families())
def test_families_are_accepted(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).to(dtype)
    specs = probe(model, MAX_MODEL_LEN)
    assert [s.window for s in specs] == WINDOWS.get(family, [0] * model.config.num_hidden_layers)
    assert [s.scale for s in specs] == pytest.approx([SCALES.get(family, 16**-0.5)] * len(specs))
    assert {s.soft_cap for s in specs} == {2.0 if family == "gemma2" else 0.0}
    assert {s.num_kv_heads for s in specs} == {4 if family == "gpt_neox" else 2}


def test_keys_and_values_of_different_sizes() -> None:
    sizes = {"qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 24, "q_lora_rank": 32, "kv_lora_rank": 32}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    model = build(
        "deepseek_v3", num_key_value_heads=4, moe_intermediate_size=32, intermediate_size=64, **sizes, **experts
    )
    assert {(s.head_dim, s.value_dim) for s in probe(model, MAX_MODEL_LEN)} == {(32, 24)}


def test_sinks_are_seen_and_right() -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64}
    model = build("gpt_oss", num_key_value_heads=2, head_dim=16, sliding_window=12, **experts)
    for layer in model.model.layers:
        nn.init.normal_(layer.self_attn.sinks, std=2.0)
    specs = probe(model, MAX_MODEL_LEN)
    assert [(s.window, s.sinks) for s in specs] == [(12, True), (0, True)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_head": 4, "n_layer": 2}, "BloomForCausalLM .*attention interface"),
    "falcon": ({}, "FalconForCausalLM .*attention interface"),
    "mpt": ({"n_heads": 4, "n_layers": 2, "d_model": 64}, "MptForCausalLM .*attention interface"),
    "llama4_text": (
        {"intermediate_size": 64, "intermediate_size_mlp": 64, "num_local_experts": 2, "head_dim": 16},
        "Llama4ForCausalLM .*chunked_attention",
    ),
    "phimoe": (
        {"sliding_window": 12, "num_local_experts": 4, "intermediate_size": 64, "num_key_value_heads": 2},
        "PhimoeForCausalLM .*window of 0 tokens where its configuration says 12",
    ),
    "mamba": ({"state_size": 4}, "MambaForCausalLM .*recurrent state"),
    "bert": ({"intermediate_size": 64}, "BertLMHeadModel .*come later"),
    "llama": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic rotary"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_wrong_is_refused_by_name(kind: str) -> None:
    values, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        probe(build(kind, **values), MAX_MODEL_LEN)
    assert "\n" not in str(caught.value)


def leak(model: PreTrainedModel) -> None:
    """Each token adds a little of its neighbour, as a convolution over the row would."""
    model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, output: output + 0.5 * output.roll(1, dims=1))


def forget_positions(model: PreTrainedModel) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None])


def run_twice(model: PreTrainedModel) -> None:
    model.model.layers[1].self_attn = model.model.layers[0].self_attn


def mask_by_itself(model: PreTrainedModel) -> None:
    add_argument(model.model.layers[0].self_attn, attention_mask=torch.zeros(1, 1, 48, 48))


def drop_kept_positions(model: PreTrainedModel) -> None:
    add_argument(model, logits_to_keep=0)


def look_ahead(model: PreTrainedModel) -> None:
    model.model.layers[0].self_attn.is_causal = False


def lose_finite_logits(model: PreTrainedModel) -> None:
    model.model.norm.weight.fill_(torch.inf)


def add_argument(module: nn.Module, **values: Any) -> None:
    module.register_forward_pre_hook(lambda _m, args, kwargs: (args, {**kwargs, **values}), with_kwargs=True)


BREAKAGES: list[tuple[Callable[[PreTrainedModel], None], str]] = [
    (leak, "other logits"),
    (forget_positions, "other logits"),
    (run_twice, "2 attention calls|do not run in order"),
    (mask_by_itself, "masks its attention"),
    (drop_kept_positions, "logits_to_keep"),
    (look_ahead, "come later"),
    (lose_finite_logits, "other logits .*nan"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("breakage", "message"), BREAKAGES)
def test_a_model_that_misbehaves_is_found(
    breakage: Callable[[PreTrainedModel], None], message: str, dtype: torch.dtype
) -> None:
    model = tiny_model("llama").to(dtype)
    breakage(model)
    with pytest.raises(ConfigError, match=message):
        probe(model, MAX_MODEL_LEN)


@pytest.mark.parametrize(("max_model_len", "length"), [(64, 20), (512, 100)])
def test_longrope_is_frozen_by_the_longest_sequence(max_model_len: int, length: int) -> None:
    """Frozen frequencies are those of the model itself at that length, and no batch changes them."""
    scaling = {"rope_parameters": dict(LONGROPE), "original_max_position_embeddings": 64}
    model, reference = (tiny_model("phi3", sliding_window=None, **scaling) for _ in range(2))
    assert reference.model.rotary_emb.rope_type == "longrope"
    probe(model, max_model_len)
    for each in (model, reference):
        each.set_attn_implementation("eager")
    frozen = model.model.rotary_emb.inv_freq.clone()
    tokens = torch.arange(3, 3 + length)[None]
    assert torch.allclose(model(tokens).logits, reference(tokens).logits, atol=1e-5)
    for other in (5, 200):
        model(torch.arange(3, 3 + other)[None])
        assert torch.equal(model.model.rotary_emb.inv_freq, frozen)


class Layer:
    """Attention that is only its values' mean, so that a wrong layer or a wrong order shows."""

    def __init__(self, index: int, calls: list[int]) -> None:
        self.index, self.calls = index, calls

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
        self.calls.append(self.index)
        return torch.zeros(1, query.shape[2], query.shape[1], value.shape[3])


def test_bind_gives_each_layer_its_own_and_may_be_repeated() -> None:
    model = tiny_model("gemma2")
    specs = probe(model, MAX_MODEL_LEN)
    assert all(isinstance(spec, AttentionSpec) for spec in specs)
    for _ in range(2):
        calls: list[int] = []
        bind(model, lambda index, calls=calls: Layer(index, calls))
        model(torch.tensor([[5, 6, 7]]), position_ids=torch.arange(3)[None], use_cache=False)
        assert calls == [0, 1, 2, 3]


def test_two_models_do_not_share_anything() -> None:
    calls: dict[str, list[int]] = {"llama": [], "qwen3": []}
    models = {family: tiny_model(family) for family in calls}
    for family, model in models.items():
        probe(model, MAX_MODEL_LEN)
        bind(model, lambda index, family=family: Layer(index, calls[family]))
    models["llama"](torch.tensor([[5, 6, 7]]), use_cache=False)
    assert calls == {"llama": [0, 1], "qwen3": []}
