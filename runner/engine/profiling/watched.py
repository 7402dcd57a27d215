"""An engine whose device and stages are watched from outside: the engine itself holds no code for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from runner.engine.build import build_core, choose_device
from runner.engine.core import EngineCore
from runner.engine.device import Buffer, Device, Event, Stream
from runner.engine.lane import Launched
from runner.engine.model_runner import ModelRunner
from runner.engine.plan import StepPlan
from runner.engine.profiling.recorder import COMPUTE, PROMPTS, Recorder, Step
from runner.engine.settings import EngineSettings
from runner.engine.slots import SlotTable


class WatchedStream(Stream):
    """Puts an event before and after each operation."""

    def __init__(self, stream: Stream, recorder: Recorder) -> None:
        self.name = stream.name
        self._stream = stream
        self._recorder = recorder

    def enqueue(
        self, operation: Callable[[], None], reads: Sequence[Buffer] = (), writes: Sequence[Buffer] = ()
    ) -> None:
        if not self._recorder.is_on:
            self._stream.enqueue(operation, reads, writes)
            return
        begin = self._stream.record()
        self._stream.enqueue(operation, reads, writes)
        self._recorder.add_operation(self.name, begin, self._stream.record())

    def wait(self, event: Event) -> None:
        self._stream.wait(event)

    def record(self) -> Event:
        return self._stream.record()


class WatchedDevice(Device):
    """The same device with watched copies. Steps have events of their own around what they compute."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.torch_device = device.torch_device
        self.recorder = Recorder(device)
        self.h2d = WatchedStream(device.h2d, self.recorder)
        self.compute = device.compute
        self.d2h = WatchedStream(device.d2h, self.recorder)
        self.prompts = device.prompts

    def host_buffer(self, name: str, size: int) -> Buffer:
        return self._device.host_buffer(name, size)

    def device_buffer(self, name: str, size: int) -> Buffer:
        return self._device.device_buffer(name, size)

    def leaving_room(self) -> AbstractContextManager[None]:
        return self._device.leaving_room()

    def synchronize(self) -> None:
        self._device.synchronize()

    def discard(self) -> None:
        self._device.discard()


@dataclass(frozen=True)
class WatchedEngine:
    """An engine and the recorder of what it does; ``dtype`` is its weights'."""

    core: EngineCore
    recorder: Recorder
    dtype: str


def watched_engine(settings: EngineSettings) -> WatchedEngine:
    """An engine as the job would have it. Raises ConfigError as `build_core`."""
    device = WatchedDevice(choose_device(settings.model.device))
    core = build_core(settings, device)
    assert isinstance(core.runner, ModelRunner)
    recorder = device.recorder
    stages: list[tuple[Any, str, str]] = [
        (core.scheduler, "schedule_first_prompts", "schedule"),
        (core.scheduler, "schedule_prompts", "schedule"),
        (core.scheduler, "schedule_rows", "schedule"),
        (core.runner, "launch", "launch"),
        (core.runner.builder, "build", "packet"),
        (core.runner, "results", "wait"),
        (core.scheduler, "accept", "accept"),
    ]
    for part, method, stage in stages:
        setattr(part, method, _staged(getattr(part, method), stage, recorder))
    dtype = str(core.runner.dtype).removeprefix("torch.")
    core.runner = _Counted(core.runner, recorder, PROMPTS if core.scheduler.config.overlap_prefill else COMPUTE)
    return WatchedEngine(core, recorder, dtype)


class _Counted:
    """The runner, noting what each step is asked to do; prompts are computed on the lane ``prompts``."""

    def __init__(self, runner: ModelRunner, recorder: Recorder, prompts: str) -> None:
        self._runner = runner
        self._recorder = recorder
        self._prompts = prompts
        self.times = runner.times
        self.results = runner.results
        self.prepare = runner.prepare
        self.recover = runner.recover

    def launch(self, plan: StepPlan, table: SlotTable) -> Launched:
        launched = self._runner.launch(plan, table)
        if self._recorder.is_on:
            context = int(table.length[plan.decode].sum())
            step = Step(len(plan.decode), context, plan.num_prefill_tokens, len(plan.sampled))
            lane = self._prompts if plan.chunks else COMPUTE
            self._recorder.add_step(lane, launched.begin, launched.end, step)
        return launched


def _staged(method: Callable[..., Any], stage: str, recorder: Recorder) -> Callable[..., Any]:
    def call(*arguments: Any, **more: Any) -> Any:
        with recorder.host(stage):
            return method(*arguments, **more)

    return call
