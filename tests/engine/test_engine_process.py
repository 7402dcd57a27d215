"""The engine across its process boundary: right answers, early stops, and every way in which it can end."""

from __future__ import annotations

import operator
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model

from runner.config import EngineConfig, LoadFormat, ModelSettings
from runner.engine import EngineProcess, EngineSettings
from runner.engine.serve import _HEARTBEAT_SECONDS, _Sender
from runner.engine.wire import Progress, Ready
from runner.errors import ConfigError, EngineError
from runner.models import resolve_model
from runner.types import EngineRequest, EngineStats, FinishReason, Sample, SamplingParams

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


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[EngineProcess]:
    """For tests that leave it as they found it: every start of an engine loads torch."""
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


def test_an_aborted_sample_comes_back_with_what_it_has(shared: EngineProcess) -> None:
    shared.submit([EngineRequest(i, [5, 6], FOREVER, (0,), stream=True) for i in range(2)])
    while not shared.poll(1.0):
        pass
    shared.abort([(0, 0)])
    samples = {sample.request_id: sample for sample in collect(shared, 2)}
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
    engine._watchdog_seconds = 0.5
    with pytest.raises(EngineError, match="no sign of life"):
        collect(engine, 1)
    engine.close()
    assert not alive(engine.pid)


def test_a_hung_engine_does_not_hold_up_who_submits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engine.process._SOCKET_BYTES", 1 << 13)
    engine = EngineProcess(settings_for(folder), watchdog_seconds=20.0)
    engine.submit([EngineRequest(0, [5, 6], SamplingParams(max_tokens=1), (0,))])
    collect(engine, 1)
    os.kill(engine.pid, signal.SIGSTOP)
    engine._watchdog_seconds = 0.5
    for i in range(1, 9):
        engine.submit([EngineRequest(i, [5] * 50_000, SamplingParams(max_tokens=1), (0,))])
    with pytest.raises(EngineError, match="no sign of life"):
        collect(engine, 1)
    engine.close()
    assert not alive(engine.pid)


@dataclass
class SlowSettings:
    """Settings that take a while to reach the engine, as a large model takes a while to load."""

    settings: EngineSettings
    seconds: float

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.getitem, ([self.settings, Pause(self.seconds)], 0)


@dataclass
class Pause:
    seconds: float

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (self.seconds,)


def test_an_engine_that_loads_gives_signs_of_life(folder: Path) -> None:
    engine = EngineProcess(SlowSettings(settings_for(folder), 1.5))
    started = engine._heard
    while engine._heard == started:
        engine._receive(1.0)
    assert not engine._ready
    engine.submit([])
    engine.close()


def test_only_steps_give_signs_of_life_once_it_has_loaded() -> None:
    ours, theirs = Pipe()
    sender = _Sender(theirs)
    assert isinstance(ours.recv(), Progress)
    sender.put(Ready())
    while not isinstance(ours.recv(), Ready):
        pass
    assert not ours.poll(4 * _HEARTBEAT_SECONDS)
    sender.finish()


def test_signs_of_life_that_nobody_reads_do_not_pile_up() -> None:
    ours, theirs = Pipe()
    sender = _Sender(theirs)
    for _ in range(3000):
        sender.beat(Progress.pack([], EngineStats()))
    assert sender._queue.qsize() <= 1
    ours.recv()
    while ours.poll(2 * _HEARTBEAT_SECONDS):
        ours.recv()
    sender.finish()


def test_an_idle_engine_gives_signs_of_life(shared: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.submit([])
    monkeypatch.setattr(shared, "_watchdog_seconds", 3.0)
    for _ in range(5):
        shared.poll(1.0)


def test_signals_of_the_terminal_do_not_reach_the_engine(shared: EngineProcess) -> None:
    shared.submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(shared.pid, number)
    assert len(collect(shared, 1)[0].token_ids) == 400


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


def test_the_engine_outlives_the_thread_that_made_it(folder: Path) -> None:
    made: list[EngineProcess] = []

    def make() -> None:
        made.append(EngineProcess(settings_for(folder)))
        made[0].submit([])

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].submit([EngineRequest(0, [5, 6], FOREVER, (0,))])
    assert len(collect(made[0], 1)[0].token_ids) == 400
    made[0].close()


def test_what_starts_the_engine_ends_with_it(folder: Path) -> None:
    before = threading.active_count()
    engine = EngineProcess(settings_for(folder))
    engine.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_engine_that_cannot_be_started_says_so_to_its_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        EngineProcess(settings_for(folder))


def test_a_model_that_cannot_be_served_is_refused_through_the_boundary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}')
    model = ModelSettings(path=str(tmp_path), load_format=LoadFormat.dummy)
    engine = EngineProcess(EngineSettings(resolve_model(model), model, EngineConfig(max_model_len=64)))
    with pytest.raises(ConfigError, match="Bloom"):
        engine.submit([])
    engine.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_every_start_looks_for_kernels_where_triton_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elsewhere: bool
) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.delenv("TRITON_HOME", raising=False)
    if elsewhere:
        monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    assert cache_of_the_child(monkeypatch) == triton.knobs.cache.dir
    monkeypatch.setenv("TRITON_CACHE_DIR", "/tmp/mine")
    assert cache_of_the_child(monkeypatch) == "/tmp/mine"


def test_a_home_that_cannot_be_written_keeps_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", "/proc/nowhere")
    assert cache_of_the_child(monkeypatch).startswith(tempfile.gettempdir())


def cache_of_the_child(monkeypatch: pytest.MonkeyPatch) -> str:
    seen: dict[str, str] = {}

    def start(command: list[str], env: dict[str, str], **_: Any) -> None:
        seen.update(env)
        raise OSError

    monkeypatch.setattr("runner.engine.process._start", start)
    with pytest.raises(OSError):
        EngineProcess(object())
    return seen["TRITON_CACHE_DIR"]
