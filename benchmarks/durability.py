"""What durability costs a run: the same rows with every sync, with the syncs left out, and with nothing written.

    python -m benchmarks.durability --folder /tmp/durability

The engine is a clock: 512 sequences, each given its next token every step, 10,000 tokens a second in all; a slot that
the runner leaves empty is lost, as on a card. Everything else is the run's own: reading, rendering, decoding, parsing,
journal, parts. The three take turns, in an order that turns too. Prints seconds, and the ratio to the run that writes
nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.echo import write_rows
from runner.cli.compose import compose
from runner.config import RunnerConfig
from runner.output import Output, OutputSpec, Range
from runner.output.disk import Disk
from runner.report.guard import QualityGuard
from runner.report.progress import Progress
from runner.run.backends import choose_backend
from runner.run.budget import ErrorBudget
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight
from runner.run.loop import Loop
from runner.run.plan import Plan
from runner.run.recovery import RestartingEngine
from runner.run.source import WorkSource
from runner.run.stop_strings import StopStringWatch
from runner.signals import StopFlag
from runner.types import EngineRequest, EngineStats, FinishReason, RowResult, Sample, SampleKey

NUM_SLOTS = 512
ROWS_PER_SHARD = 200


class PacedEngine:
    """An EngineClient that makes one token for each of its sequences every ``step_seconds`` of the clock."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._waiting: deque[EngineRequest] = deque()
        self._running: list[tuple[int, EngineRequest]] = []  # the step at which it ends
        self._step = 0
        self._next = time.monotonic() + step_seconds
        self._tokens = 0

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self._waiting.extend(requests)

    def poll(self, timeout: float) -> list[Sample]:
        until = time.monotonic() + timeout
        while not (done := self._catch_up()) and time.monotonic() < until:
            time.sleep(max(0.0, min(self._next, until) - time.monotonic()))
        return done

    def _catch_up(self) -> list[Sample]:
        """Does the steps that are due; late ones run with what was there, as a card would have."""
        done: list[Sample] = []
        while time.monotonic() >= self._next:
            self._step += 1
            self._next += self._step_seconds
            done += [_answer(request) for end, request in self._running if end <= self._step]
            self._running = [item for item in self._running if item[0] > self._step]
            self._tokens += len(self._running)
            while self._waiting and len(self._running) < NUM_SLOTS:
                request = self._waiting.popleft()
                self._running.append((self._step + _length(request), request))
        return done

    def abort(self, samples: Sequence[SampleKey]) -> None:
        """Nothing here has a stop string."""

    def close_input(self) -> None:
        """It never looks ahead."""

    def stats(self) -> EngineStats:
        return EngineStats(len(self._running), len(self._waiting), steps=self._step, completion_tokens=self._tokens)

    def kill(self) -> None:
        """Nothing runs here."""

    def close(self) -> None:
        self._waiting.clear()


def _length(request: EngineRequest) -> int:
    """100 to 300 tokens, by the seed."""
    return 100 + request.seeds[0] % 201


def _answer(request: EngineRequest) -> Sample:
    return Sample(request.request_id, 0, [97 + i % 26 for i in range(_length(request))], FinishReason.STOP)


class NoSync(Disk):
    """A disk that never waits."""

    def sync(self, fd: int, path: Path) -> None: ...

    def sync_dir(self, path: Path) -> None: ...


class Nothing:
    """An output that forgets."""

    def __init__(self, num_rows: int, size: int) -> None:
        self._left = deque(Range(k, k * size, min((k + 1) * size, num_rows)) for k in range(-(-num_rows // size)))

    @property
    def ranges_left(self) -> int:
        return len(self._left)

    def take_range(self, *, is_hungry: bool = False) -> Range | None:
        return self._left.popleft() if self._left else None

    def write(self, result: RowResult) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


Sink = Output | Nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to be measured")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=10_000.0, help="tokens a second")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = arguments.folder / "rows.jsonl"
    write_rows(source, arguments.rows)
    config = compose(["job=generate", "engine=echo", f"input.path={source}", f"output.dir={arguments.folder / 'out'}"])
    sinks: dict[str, Callable[[Plan], Sink]] = {
        "nothing written": lambda plan: Nothing(plan.inventory.num_rows, ROWS_PER_SHARD),
        "without syncs": lambda plan: Output.open(plan.folder, spec_of(plan), NoSync()),
        "durable": lambda plan: Output.open(plan.folder, spec_of(plan)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sinks}
    for number in range(arguments.rounds):
        names = [*sinks][number % 3 :] + [*sinks][: number % 3]
        for name in names:
            seconds[name].append(timed(config, sinks[name], NUM_SLOTS / arguments.rate))
    report(seconds)


def spec_of(plan: Plan) -> OutputSpec:
    return OutputSpec("durability", plan.columns, plan.inventory.num_rows, {}, rows_per_shard=ROWS_PER_SHARD)


def timed(config: RunnerConfig, open_sink: Callable[[Plan], Sink], step_seconds: float) -> float:
    """Seconds of one whole run, from its first row to its last part."""
    assert config.output.dir is not None
    shutil.rmtree(config.output.dir, ignore_errors=True)
    backend = replace(choose_backend(config), start_engine=lambda: PacedEngine(step_seconds))
    plan = Plan(config, backend)
    sink = open_sink(plan)
    began = time.monotonic()
    assert loop_of(plan, sink).run()
    if isinstance(sink, Output):
        sink.finish()
    sink.close()
    return time.monotonic() - began


def loop_of(plan: Plan, sink: Sink) -> Loop:
    tokenizer = plan.backend.open_tokenizer()
    return Loop(
        source=WorkSource(sink, plan.reader(), plan.renderer(tokenizer)),
        engine=RestartingEngine(plan.backend.start_engine),
        finisher=Finisher(plan.job, tokenizer, plan.columns.names, "paced"),
        watch=StopStringWatch(tokenizer),
        writer=sink,
        inflight=InFlight(0),
        budget=ErrorBudget(1.0, 1),
        guard=QualityGuard(),
        progress=Progress(plan.inventory.num_rows, 0, plan.sampling.max_tokens),
        stop=StopFlag(),
        max_samples=2 * NUM_SLOTS,
    )


def report(seconds: dict[str, list[float]]) -> None:
    base = seconds["nothing written"]
    print(f"{'':<16} {'seconds':>8} {'ratio':>7}   each")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, base, strict=True))
        print(f"{name:<16} {statistics.median(times):8.2f} {ratio:7.4f}   {' '.join(f'{t:.2f}' for t in times)}")


if __name__ == "__main__":
    main()
