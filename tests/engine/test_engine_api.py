"""The engine as a library: vLLM's spellings, right answers, and one line for whatever cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_tiny_model, tiny_model

from runner.engine import Engine
from runner.errors import ConfigError
from runner.types import Sample, SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "llama", "llama")


def test_the_library_gives_what_generate_gives(folder: Path) -> None:
    with Engine(str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1) as engine:
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


def test_the_library_takes_vllms_spellings_and_refuses_what_cannot_work(folder: Path) -> None:
    def text(stop: object) -> str:
        params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, stop=stop)  # type: ignore[arg-type]
        return engine.generate("hello there", params)[0].outputs[0].text

    with Engine(str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1) as engine:
        stop = text(())[4:7]
        assert text(stop) == text([stop]) == text((stop,))  # one string, not its letters
        with pytest.raises(ConfigError, match=r"SamplingParams\.temperature=-1"):
            engine.generate("hello", SamplingParams(temperature=-1))
        with pytest.raises(ConfigError, match="prompt 1: token ids go from 0 to"):
            engine.generate([[5], [10**7]])


def test_a_seed_of_the_callers_own_does_not_depend_on_the_place_of_the_prompt(folder: Path) -> None:
    params = SamplingParams(max_tokens=8, ignore_eos=True, seed=42)
    with Engine(str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1) as engine:
        alone = engine.generate("some words", params)[0]
        second = engine.generate(["hello there", "some words"], params)[1]
    assert alone.outputs[0].token_ids == second.outputs[0].token_ids


def test_answers_of_an_interrupted_call_do_not_reach_the_next(folder: Path) -> None:
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    with Engine(str(folder), max_num_seqs=4, cpu_kv_cache_gib=0.1) as engine:
        expected = engine.generate("hello there", params)[0].outputs
        poll, engine._client.poll = engine._client.poll, _interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            engine.generate(["some other words", "and more"], params)
        engine._client.poll = poll  # type: ignore[method-assign]
        assert engine.generate("hello there", params)[0].outputs == expected


def _interrupt(timeout: float) -> list[Sample]:
    raise KeyboardInterrupt
