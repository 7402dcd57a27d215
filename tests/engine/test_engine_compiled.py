"""The compiler sees one layer once, whatever layer runs, however many tokens, and however often the cache changes."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

from runner.engine.compiled import OpaqueLayer, compile_layers
from runner.engine.fuse import fuse_linears
from runner.engine.memory import FIRST_TOKENS
from runner.engine.probe import bind, decoder_layers, probe


class Echo:
    """The query as the answer of a layer."""

    def __call__(self, query: Tensor, *_: object) -> Tensor:
        return query.transpose(1, 2).clone(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_one_compilation_serves_all(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    model = tiny_model(family)
    fuse_linears(model)
    probe(model, 512)
    compile_layers(decoder_layers(model))

    seen: list[tuple[int, int]] = []

    def run(num_tokens: int) -> None:
        with torch.inference_mode():
            positions = torch.arange(num_tokens)[None]
            model(torch.zeros_like(positions), position_ids=positions, use_cache=False)
        seen.append((num_tokens, counters["stats"]["unique_graphs"]))

    bind(model, lambda _: OpaqueLayer(Echo()))
    for num_tokens in (FIRST_TOKENS, 300, 16):
        run(num_tokens)
    bind(model, lambda _: OpaqueLayer(Echo()))
    for num_tokens in (7, 200, 2, 64):
        run(num_tokens)
    assert {graphs for _, graphs in seen} == {1}, seen
