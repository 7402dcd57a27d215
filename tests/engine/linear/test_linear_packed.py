"""Packed linears on a CPU: the same products, from a weight that is kept once."""

from __future__ import annotations

import pytest
import torch
from tiny_models import families, tiny_model
from torch import nn

from runner.engine.linear.packed import PackedLinear, pack_linears

if not torch.backends.mkldnn.is_available():
    pytest.skip("torch was built without oneDNN", allow_module_level=True)

TOKENS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (0,), (64,), (301,), (1, 5), (2, 3, 4)])
def test_equals_float64(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(331, 95, bias=bias)
    x = torch.randn(*shape, 331)
    expected = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    with torch.inference_mode():
        got = PackedLinear(linear, shared=False)(x)
    assert got.shape == expected.shape
    assert torch.allclose(got.double(), expected, atol=1e-5)


def test_takes_rows_that_do_not_lie_together() -> None:
    linear = nn.Linear(64, 40)
    wide = torch.randn(10, 3, 64)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear, shared=False)(wide[:, 1]), linear(wide[:, 1]), atol=1e-5)


@pytest.mark.parametrize("family", families())
def test_same_logits(family: str) -> None:
    model = tiny_model(family)
    with torch.inference_mode():
        expected = model(TOKENS, use_cache=False).logits
        assert pack_linears(model) > 0
        assert torch.allclose(model(TOKENS, use_cache=False).logits, expected, atol=1e-4)


def test_only_what_others_use_is_kept_as_it_was() -> None:
    model = tiny_model("qwen2")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    head = model.lm_head.weight
    pack_linears(model)
    assert model.lm_head.weight is not None
    assert model.lm_head.weight.data_ptr() == head.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert model.model.layers[0].mlp.down_proj.weight.numel() == 0


def test_other_types_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16), nn.Linear(8, 8))
    assert pack_linears(model) == 1
    assert type(model[0]) is nn.Linear
