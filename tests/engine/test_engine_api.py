"""The engine as a library: vLLM's spellings, right answers, and one line for whatever cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_model, tiny_model

from runner.engine import Engine
from runner.errors import ConfigError
from runner.types import Sample, SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1) as engine:
        yield engine


def test_the_library_gives_what_generate_gives(engine: Engine) -> None:
    params = SamplingParams(max_tokens=16, temperature=0.0)
    outputs = engine.generate(["hello there", "some other words", [5, 6, 7]], params)
    chat = engine.chat([{"role": "user", "content": "hi"}], params)
    stopped = engine.generate(
        "hello there",
        SamplingParams(max_tokens=400, temperature=0.0, ignore_eos=True, stop=(outputs[0].outputs[0].text[4:6],)),
    )
    import torch

    model = tiny_model("llama")
    for output in outputs:
        ids = torch.tensor([output.prompt_token_ids])
        whole = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=2, pad_token_id=0)
        assert output.outputs[0].token_ids == whole[0, ids.shape[1] :].tolist()
    assert "<|im_start|>user" in chat[0].prompt
    assert stopped[0].outputs[0].finish_reason == "stop"
    assert stopped[0].outputs[0].text == outputs[0].outputs[0].text[: len(stopped[0].outputs[0].text)]


def test_the_library_takes_vllms_spellings_and_refuses_what_cannot_work(engine: Engine) -> None:
    def text(stop: object) -> str:
        params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, stop=stop)  # type: ignore[arg-type]
        return engine.generate("hello there", params)[0].outputs[0].text

    stop = text(())[4:7]
    assert text(stop) == text([stop]) == text((stop,))  # one string, not its letters
    with pytest.raises(ConfigError, match=r"SamplingParams\.temperature=-1"):
        engine.generate("hello", SamplingParams(temperature=-1))
    with pytest.raises(ConfigError, match="prompt 1: token ids go from 0 to"):
        engine.generate([[5], [10**7]])


def test_a_seed_of_the_callers_own_does_not_depend_on_the_place_of_the_prompt(engine: Engine) -> None:
    params = SamplingParams(max_tokens=8, ignore_eos=True, seed=42)
    alone = engine.generate("some words", params)[0]
    second = engine.generate(["hello there", "some words"], params)[1]
    assert alone.outputs[0].token_ids == second.outputs[0].token_ids


def test_answers_of_an_interrupted_call_do_not_reach_the_next(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    expected = engine.generate("hello there", params)[0].outputs
    with monkeypatch.context() as patch:
        patch.setattr(engine._client, "poll", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(["some other words", "and more"], params)
    assert engine.generate("hello there", params)[0].outputs == expected


def _interrupt(timeout: float) -> list[Sample]:
    raise KeyboardInterrupt


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        ([None], None, "prompt 0 is NoneType"),
        (["a", {"prompt": "b"}], None, "prompt 1 is dict"),
        ([[1.5]], None, "prompt 0 is list"),
        ([b"abc"], None, "prompt 0 is bytes"),
        (["a", "\ud800"], None, "prompt 1: '.ud800' is half a surrogate pair"),
        (None, None, "prompts: NoneType is no list of prompts"),
        ({"prompt": "a"}, None, "prompts: dict is no list of prompts"),
        (["a"], {"max_tokens": 3}, "sampling_params={'max_tokens': 3}: must be SamplingParams"),
        (["a"], [None], r"sampling_params=\[None\]: must be SamplingParams"),
        (["a"], [], "0 sampling_params for 1 prompts"),
        (["a"], [SamplingParams()] * 2, "2 sampling_params for 1 prompts"),
    ],
)
def test_what_is_no_prompt_is_refused(engine: Engine, prompts: Any, params: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.generate(prompts, params)


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        ([{"role": "user"}], r"conversation 0: messages\[0\] has no content"),
        ([[USER], [{"role": "usr", "content": "hi"}]], r"conversation 1: messages\[0\].role is 'usr'"),
        ([[]], "conversation 0: messages must be a list of at least one"),
        ("hi", "conversations: str is no list"),
        (USER, "conversations: dict is no list"),
        ([None], "conversation 0: messages must be a list"),
        ([{"role": "user", "content": "\ud800"}], "conversation 0: '.ud800' is half a surrogate pair"),
    ],
)
def test_what_is_no_conversation_is_refused(engine: Engine, conversations: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.chat(conversations)


def test_a_list_of_ids_alone_is_one_prompt(engine: Engine) -> None:
    params = SamplingParams(max_tokens=4, temperature=0.0)
    alone = engine.generate([5, 6, 7], params)
    assert alone == engine.generate([(5, 6, 7)], params) == engine.generate(np.array([5, 6, 7]), params)
    assert alone[0].prompt_token_ids == [5, 6, 7]
    assert engine.generate([]) == engine.generate([], []) == []


def test_the_same_call_draws_the_same(engine: Engine) -> None:
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    first = engine.generate(["some words", "some words"], params)
    assert engine.generate(["some words", "some words"], params) == first
    assert first[0].outputs[0].token_ids != first[1].outputs[0].token_ids


def test_calls_of_several_threads_take_turns(engine: Engine) -> None:
    params = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
    texts = ["hello there", "some other words", "and more", "the last"]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(lambda text: engine.generate(text, params)[0], texts))
    assert together == engine.generate(texts, params)


def test_an_engine_made_in_a_pool_is_of_use_after_it(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        engine = pool.submit(Engine, str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1).result()
    with engine:
        assert len(engine.generate("hello there", SamplingParams(max_tokens=4, ignore_eos=True))[0].outputs) == 1
