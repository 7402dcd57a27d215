"""Fused linears give the same outputs from the same parameters and keep nothing."""

from __future__ import annotations

import weakref

import pytest
import torch
from tiny_models import families, tiny_model
from torch import nn
from torch.nn import functional

from runner.engine.fuse import FusedPart, fuse_linears
from runner.engine.probe import probe

TOKENS = torch.arange(3, 40)[None]
GROUPS = {"phi3": 0, "gpt_neox": 0, "gemma2": 8, "gemma3_text": 8, "smollm3": 8, "mixtral": 2, "qwen3_moe": 2}


@pytest.mark.parametrize("family", families())
def test_same_logits(family: str) -> None:
    model = tiny_model(family)
    expected = model(TOKENS, use_cache=False).logits
    assert fuse_linears(model) == GROUPS.get(family, 4)
    assert torch.allclose(model(TOKENS, use_cache=False).logits, expected, atol=1e-4)
    probe(model, 512)


def test_parameters_keep_names_and_values_and_share_the_fused_memory() -> None:
    model = tiny_model("qwen2")  # with biases
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    fuse_linears(model)
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    attention = model.model.layers[0].self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    for name in ("weight", "bias"):
        assert len({getattr(part, name).untyped_storage().data_ptr() for part in parts}) == 1
    attention.k_proj.weight.zero_()
    x = torch.ones(1, 1, 64)
    attention.q_proj(x)
    assert torch.equal(attention.k_proj(x)[0, 0], attention.k_proj.bias)


def test_nothing_outlives_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    fuse_linears(model)
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    linear = functional.linear

    def watched(*args: torch.Tensor) -> torch.Tensor:
        output = linear(*args)
        outputs.append(weakref.ref(output.untyped_storage()))
        return output

    monkeypatch.setattr("runner.engine.fuse.functional.linear", watched)
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *_: alive.append(sum(ref() is not None for ref in outputs)))
    with torch.inference_mode():
        model(TOKENS, use_cache=False)
    assert alive == [0, 0]


def test_what_cannot_be_fused_is_left_alone() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    attention.k_proj = nn.Linear(64, 32, bias=True)
    attention.v_proj.weight.data = attention.v_proj.weight.data.double()
    assert fuse_linears(model) == 3
    assert not isinstance(attention.q_proj, FusedPart)


def test_different_inputs_are_noticed() -> None:
    model = tiny_model("llama")
    fuse_linears(model)
    mlp = model.model.layers[0].mlp
    mlp.gate_proj(torch.ones(1, 64))
    with pytest.raises(AssertionError, match="different inputs"):
        mlp.up_proj(torch.zeros(1, 64))


def test_compiles_to_one_graph() -> None:
    model = tiny_model("llama")
    expected = model(TOKENS, use_cache=False).logits
    fuse_linears(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.allclose(compiled(TOKENS, use_cache=False).logits, expected, atol=1e-4)
