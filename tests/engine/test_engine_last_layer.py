"""The last layer of a step of prompts is computed for the tokens that are sampled from alone, and nobody sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_engine_exact import MAX_TOKENS, expected_answer, finish, make_core, prompts_of, requests_for
from tiny_models import EOS_TOKEN_ID, families, tiny_model
from torch import Tensor, nn

from runner.config import EngineConfig
from runner.engine.build import core_over
from runner.engine.core import EngineCore
from runner.engine.device import CpuDevice
from runner.engine.last_layer import LastLayer


def context_of(core: EngineCore) -> Any:
    return core.runner._context  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", families())
def test_every_family_may_finish_alone(family: str) -> None:
    assert context_of(make_core(family)).finishes_alone


def tokens_by_layer(core: EngineCore) -> list[list[int]]:
    """For each linear named down_proj, in the order of the layers: the tokens that it is given, call by call."""
    seen: list[list[int]] = []
    for name, module in core.runner._model.named_modules():  # type: ignore[attr-defined]
        if name.endswith("down_proj"):
            calls: list[int] = []
            seen.append(calls)
            module.register_forward_pre_hook(lambda _, inputs, calls=calls: calls.append(inputs[0].shape[1]))
    return seen


def test_only_the_last_tokens_reach_the_end_of_the_last_layer() -> None:
    core = make_core("llama", async_batching=False)
    seen = tokens_by_layer(core)
    core.add(requests_for([[7] * 20, [8] * 30, [9] * 40], max_tokens=1))
    finish(core)
    assert [sum(calls) for calls in seen] == [90] * (len(seen) - 1) + [3]


def test_one_token_or_many_of_a_step_have_the_whole_layer() -> None:
    for prompts in ([[7] * 50], [[7, 8, 9], [4, 5], [6] * 9]):
        core = make_core("llama", async_batching=False)
        seen = tokens_by_layer(core)
        core.add(requests_for(prompts, max_tokens=1))
        finish(core)
        assert [sum(calls) for calls in seen] == [sum(map(len, prompts))] * len(seen)


def test_chunks_that_end_no_prompt_are_computed_too() -> None:
    prompts = [[*range(3, 90)], [*range(50, 120)], [*range(9, 60)]]
    core = make_core("llama", max_num_batched_tokens=120)
    core.add(requests_for(prompts))
    answers = finish(core)
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS)


class AddsTheInput(nn.Module):
    """A norm that mixes in what came long before the last layer, token by token."""

    def __init__(self, norm: nn.Module, embedding: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.embedded = torch.empty(0)
        embedding.register_forward_hook(lambda *call: setattr(self, "embedded", call[-1]))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(hidden_states + self.embedded)


def test_a_model_that_does_more_after_its_layers_keeps_them_whole() -> None:
    model = tiny_model("llama")
    model.model.norm = AddsTheInput(model.model.norm, model.model.embed_tokens)
    config = EngineConfig(max_num_seqs=4, max_num_batched_tokens=256, num_kv_blocks=64, max_model_len=128)
    core = core_over(model, config, CpuDevice(), (EOS_TOKEN_ID,), context=512)
    assert not context_of(core).finishes_alone
    prompts = prompts_of(4, 6)
    core.add(requests_for(prompts, max_tokens=4))
    assert len(finish(core)) == 6


def test_a_layer_that_answers_otherwise_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the second run is given the first tokens' places in place of the last ones'."""
    whole = LastLayer.forward

    def wrong(self: LastLayer, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._context.last is not None:
            hidden_states = hidden_states.flip(1)
        return whole(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LastLayer, "forward", wrong)
    assert not context_of(make_core("llama")).finishes_alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_wrong_prompt_of_two_is_enough(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    model = tiny_model("llama").to(dtype)
    config = EngineConfig(max_num_seqs=8, max_num_batched_tokens=256, num_kv_blocks=64, max_model_len=128)
    whole = LastLayer.forward

    def wrong(self: LastLayer, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = whole(self, hidden_states, *args, **kwargs)
        if self._context.last is not None:
            answer[:, 1] = answer[:, 1].roll(7, -1)
        return answer

    assert context_of(core_over(model, config, CpuDevice(), (EOS_TOKEN_ID,), context=512)).finishes_alone
    monkeypatch.setattr(LastLayer, "forward", wrong)
    model = tiny_model("llama").to(dtype)
    assert not context_of(core_over(model, config, CpuDevice(), (EOS_TOKEN_ID,), context=512)).finishes_alone


def test_a_failed_forward_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core("llama", async_batching=False)
    context, modules = context_of(core), core.runner._model.modules()  # type: ignore[attr-defined]
    layer = next(module for module in modules if isinstance(module, LastLayer))
    plan, failures = layer._plan, [torch.OutOfMemoryError()]

    def fails_once(batch: Any) -> None:
        if failures:
            raise failures.pop()
        plan(batch)

    layer._plan = fails_once
    prompts = prompts_of(4, 6, longest=40)
    core.add(requests_for(prompts))
    answers = finish(core)
    assert not failures
    assert context.batch is None
    assert context.last is None
    for i, prompt in enumerate(prompts):
        assert tuple(answers[i, 0]) == expected_answer("llama", tuple(prompt), MAX_TOKENS)
