"""What a layer multiplies with."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from runner.engine.fuse import fuse_linears
from runner.engine.linear.weights import linear_weights


def test_the_linears_of_a_layer_are_found_once_and_fused_ones_as_one() -> None:
    model = tiny_model("llama")
    fuse_linears(model)
    layer, config = model.model.layers[0], model.config
    shapes = sorted(tuple(weight.shape) for weight, _ in linear_weights(layer))
    hidden, inner = config.hidden_size, config.intermediate_size
    head_dim = config.hidden_size // config.num_attention_heads
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    assert shapes == sorted([(heads, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)])


@pytest.mark.parametrize("fused", [False, True])
def test_a_bias_goes_with_its_weight(fused: bool) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, n) for n in (8, 4, 4))
            self.o_proj = nn.Linear(8, 8, bias=False)

    layer = Layer()
    if fused:
        fuse_linears(layer)
    found = linear_weights(layer)
    assert [None if bias is None else len(bias) for _, bias in found] == ([16, None] if fused else [8, 4, 4, None])
    biases = torch.cat([layer.q_proj.bias, layer.k_proj.bias, layer.v_proj.bias])
    assert torch.equal(torch.cat([bias for _, bias in found if bias is not None]), biases)
