"""The compiler sees one layer once, whatever layer runs, however many tokens, and however often the cache changes."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

from runner.engine import last_layer
from runner.engine.attention import AttentionBatch
from runner.engine.compiled import OpaqueLayer, compile_layers
from runner.engine.fuse import fuse_linears
from runner.engine.layers import KeysWritten, LastTokens, StepContext
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


class Stopping(Echo):
    """Stops where it only has to write, as the engine's layers do."""

    def __init__(self, context: StepContext) -> None:
        self.context = context

    def __call__(self, query: Tensor, *rest: object) -> Tensor:
        if self.context.writes_alone:
            raise KeysWritten
        return super().__call__(query, *rest)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_last_layer_runs_twice_without_another_compilation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    model, context = tiny_model(family), StepContext()
    probe(model, 512)
    last_layer.install(model, context, lambda batch: None)
    bind(model, lambda _: OpaqueLayer(Stopping(context)))

    def run(num_tokens: int, kept: list[int]) -> Tensor:
        index = torch.tensor(kept)
        batch = AttentionBatch(torch.empty(0), torch.empty(0), 16)
        context.last = LastTokens(index, batch) if kept else None
        with torch.inference_mode():
            positions = torch.arange(num_tokens)[None]
            return model(positions % 50, position_ids=positions, use_cache=False).logits[0]

    work = [(FIRST_TOKENS, []), (300, []), (300, [4, 70, 299]), (100, [0, 99]), (64, [])]
    expected = [run(*step) for step in work]
    compile_layers(decoder_layers(model))
    before = counters["stats"]["unique_graphs"]
    for step, logits in zip(work, expected, strict=True):
        assert len(logits) == len(step[1]) or not step[1]
        torch.testing.assert_close(run(*step), logits)
    assert counters["stats"]["unique_graphs"] - before == 1
