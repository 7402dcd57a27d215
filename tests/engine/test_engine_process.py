"""The engine across its process boundary: right answers, early stops, and every way in which it can end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import save_tiny_model, tiny_model

from runner.config import EngineConfig, LoadFormat, ModelSettings
from runner.engine import Engine, EngineProcess, EngineSettings
from runner.errors import ConfigError, EngineError
from runner.models import resolve_model
from runner.types import EngineRequest, FinishReason, Sample, SamplingParams

FOREVER = SamplingParams(max_tokens=400, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "llama", "llama")


def settings_for(folder: Path, **engine: object) -> EngineSettings:
    model = ModelSettings(path=str(folder))
    return EngineSettings(resolve_model(model), model, EngineConfig(max_num_seqs=4, cpu_kv_cache_gib=0.1, **engine))


@pytest.fixture
def process(folder: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(settings_for(folder))
    yield engine
    engine.close()


def collect(engine: EngineProcess, count: int) -> list[Sample]:
    samples: list[Sample] = []
    while len(samples) < count:
        samples += [output for output in engine.poll(1.0) if isinstance(output, Sample)]
    return samples


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


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


def test_an_aborted_sample_comes_back_with_what_it_has(process: EngineProcess) -> None:
    process.submit([EngineRequest(i, [5, 6], FOREVER, (0,), stream=True) for i in range(2)])
    while not process.poll(1.0):
        pass
    process.abort([(0, 0)])
    samples = {sample.request_id: sample for sample in collect(process, 2)}
    assert samples[0].finish_reason is FinishReason.ABORT
    assert samples[0].token_ids == samples[1].token_ids[: len(samples[0].token_ids)]
    assert len(samples[1].token_ids) == 400


def test_a_killed_engine_is_an_engine_error(process: EngineProcess) -> None:
    process.submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="killed by signal 9"):
        collect(process, 1)


def test_an_engine_can_be_ended_in_the_middle_of_its_work(process: EngineProcess) -> None:
    process.submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    os.kill(process.pid, signal.SIGSTOP)  # it would read no message
    process.kill()
    assert process._process.wait(30) == -signal.SIGKILL


def test_a_hung_engine_is_ended(folder: Path) -> None:
    engine = EngineProcess(settings_for(folder), watchdog_seconds=20.0)
    engine.submit([EngineRequest(0, [5, 6], SamplingParams(max_tokens=1), (0,))])
    collect(engine, 1)
    os.kill(engine.pid, signal.SIGSTOP)
    engine._watchdog_seconds = 2.0
    with pytest.raises(EngineError, match="no sign of life"):
        collect(engine, 1)
    engine.close()
    assert not alive(engine.pid)


def test_an_idle_engine_gives_signs_of_life(process: EngineProcess) -> None:
    process.submit([])
    process._watchdog_seconds = 3.0
    for _ in range(5):
        process.poll(1.0)


def test_signals_of_the_terminal_do_not_reach_the_engine(process: EngineProcess) -> None:
    process.submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
    assert len(collect(process, 1)[0].token_ids) == 400


def test_nor_do_they_end_it_while_it_still_imports(process: EngineProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
    process.submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    assert len(collect(process, 1)[0].token_ids) == 400


def test_the_engine_dies_with_its_parent(folder: Path) -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        engine = EngineProcess(settings_for(folder))
        engine.submit([])
        os.write(writer, str(engine.pid).encode())
        time.sleep(60)
        os._exit(0)
    child = int(os.read(reader, 20))
    assert alive(child)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_model_that_cannot_be_served_is_refused_through_the_boundary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}')
    model = ModelSettings(path=str(tmp_path), load_format=LoadFormat.dummy)
    engine = EngineProcess(EngineSettings(resolve_model(model), model, EngineConfig(max_model_len=64)))
    with pytest.raises(ConfigError, match="Bloom"):
        engine.submit([])
    engine.close()
