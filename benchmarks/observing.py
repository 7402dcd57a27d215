"""What looking at a run costs it: the view, metrics.jsonl, scrapes and the guard, on and off in turns in one run.

    python -m benchmarks.observing --folder /tmp/observing

Three engines, each fed as in a run: a clock with 512 places that makes 100,000 tokens a second and loses what comes
too late, as a card does; a tiny model of random weights on this CPU, in a process of its own; the stand-in, which
answers at once, so that nothing hides what this process does. Nothing is written but metrics.

- Slices: within one run looking is on and off for a second each, in the order on, off, off, on, so that what gets
  slower or faster meanwhile touches both. Of each such four: the throughput watched by that not watched, and the CPU
  time of this process for each answer, watched less not watched, times the answers a second: a share of one core.
  With 95 % intervals by bootstrap.
- Counted: every call that a run makes of what looks at it is written down with its moment, then made again on fresh
  objects, again and again, by a clock that says those moments: their CPU time, for each answer and each second.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.durability import NUM_SLOTS, PacedEngine
from benchmarks.observed_run import NUM_SEQS, loop_of, plan_of, tiny_settings, watching
from runner.engine import EngineProcess
from runner.report.guard import QualityGuard
from runner.run.plan import Plan
from runner.signals import Stop, StopFlag
from runner.types import EngineClient, EngineStats

ABBA = (True, False, False, True)  # whether a slice is watched
WARM_UP = 4  # slices
CLOCK_RATE = 100_000  # tokens a second
BOOTSTRAPS = 2000


class Slice(NamedTuple):
    """A part of a run: seconds of the clock and of this process's CPU, what was made in them."""

    seconds: float
    cpu: float
    tokens: int
    answers: int


class ClockEngine(PacedEngine):
    """One that can be told to stop."""

    def __init__(self) -> None:
        super().__init__(NUM_SLOTS / CLOCK_RATE)

    def drop_waiting(self) -> None:
        """What waits is left behind."""


class Turns:
    """Says whether looking is on, and measures each turn. Between turns that are on its clock stands still.

    So that a view that is drawn once a second is drawn once in each second of looking.
    """

    def __init__(self, seconds: float, count: int, stop: StopFlag) -> None:
        self.is_on = ABBA[0]
        self.answers = 0
        self.slices: list[Slice] = []
        self._seconds, self._count, self._stop = seconds, count, stop
        self._looked = 0.0
        self._began, self._cpu, self._tokens = time.monotonic(), time.process_time(), 0

    def monotonic(self) -> float:
        """Seconds of looking."""
        return self._looked + (time.monotonic() - self._began if self.is_on else 0.0)

    def look(self, stats: EngineStats) -> None:
        """Ends the turn if it is time to."""
        now = time.monotonic()
        if now < self._began + self._seconds:
            return
        self._looked += now - self._began if self.is_on else 0.0
        cpu, tokens = time.process_time(), stats.completion_tokens
        self.slices.append(Slice(now - self._began, cpu - self._cpu, tokens - self._tokens, self.answers))
        self.is_on = ABBA[len(self.slices) % len(ABBA)]
        self._began, self._cpu, self._tokens, self.answers = now, cpu, tokens, 0
        if len(self.slices) >= self._count:
            self._stop.request(Stop.NOW)


class InTurns:
    """Stands for a `Progress` or a `QualityGuard`, which it asks only while looking is on."""

    def __init__(self, asked: Any, turns: Turns) -> None:
        self._asked, self._turns = asked, turns

    def add_sample(self, completion_tokens: int) -> None:
        self._turns.answers += 1
        if self._turns.is_on:
            self._asked.add_sample(completion_tokens)

    def show(self, stats: EngineStats) -> None:
        if self._turns.is_on:
            self._asked.show(stats)
        self._turns.look(stats)

    def __getattr__(self, name: str) -> Callable[..., None]:
        method, turns = getattr(self._asked, name), self._turns

        def ask(*arguments: Any, **named: Any) -> None:
            if turns.is_on:
                method(*arguments, **named)

        setattr(self, name, ask)
        return ask


class Call(NamedTuple):
    """One of a run, ``at`` seconds of the monotonic clock."""

    at: float
    of_guard: bool
    name: str
    arguments: tuple[Any, ...]


class Recorder:
    """Stands for a `Progress` or a `QualityGuard`: writes down what it is asked, and does nothing."""

    def __init__(self, calls: list[Call], of_guard: bool) -> None:
        self._calls, self._of_guard = calls, of_guard

    def __getattr__(self, name: str) -> Callable[..., None]:
        def record(*arguments: Any, **named: Any) -> None:
            kept = tuple(
                copy(item) if isinstance(item, EngineStats) else item for item in (*arguments, *named.values())
            )
            self._calls.append(Call(time.monotonic(), self._of_guard, name, kept))

        return record


@dataclass
class Clock:
    """In place of the module `time`, for those who look: says the moment of the call that is made again."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the rows, the model and the metrics")
    parser.add_argument("--groups", type=int, default=50, help="of four slices each, for each engine")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a slice")
    parser.add_argument(
        "--counted-rows",
        type=int,
        default=3000,
        help="of the run that is written down; the stand-in has 40 times as many",
    )
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument(
        "--engines", nargs="+", choices=("clock", "tiny", "stand-in"), default=["clock", "tiny", "stand-in"]
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if "clock" in arguments.engines:
        measure("a clock", arguments, ClockEngine, NUM_SLOTS)
    if "tiny" in arguments.engines:
        tiny = EngineProcess(tiny_settings(arguments.folder / "model"))
        try:
            measure("a tiny model", arguments, lambda: tiny, NUM_SEQS)
        finally:
            tiny.close()
    if "stand-in" in arguments.engines:
        measure("the stand-in", arguments, None, NUM_SEQS, 40)


def measure(
    title: str, arguments: argparse.Namespace, start: Callable[[], EngineClient] | None, num_places: int, times: int = 1
) -> None:
    """``times`` a thousand answers a second are more than the engine gives."""
    seconds = arguments.seconds * (len(ABBA) * arguments.groups + WARM_UP)
    counted = plan_of(arguments.folder, times * arguments.counted_rows, start)
    report_counted(title, *recorded(counted, num_places), counted, arguments)
    report_slices(title, in_turns(plan_of(arguments.folder, int(1000 * times * seconds), start), num_places, arguments))


def in_turns(plan: Plan, num_places: int, arguments: argparse.Namespace) -> list[Slice]:
    """The slices of one run, in groups of `ABBA`."""
    stop, guard = StopFlag(), QualityGuard()
    progress = watching(plan, arguments.folder, guard)
    turns = Turns(arguments.seconds, len(ABBA) * arguments.groups + WARM_UP, stop)
    with mock.patch("runner.report.progress.time", turns):
        assert not loop_of(plan, InTurns(guard, turns), InTurns(progress, turns), stop, num_places).run(), (
            "too few rows"
        )
        progress.close()
    return turns.slices[WARM_UP:]


def recorded(plan: Plan, num_places: int) -> tuple[list[Call], float]:
    """Every call of a run, and its seconds."""
    calls: list[Call] = []
    guard: Any = Recorder(calls, of_guard=True)
    loop = loop_of(plan, guard, Recorder(calls, of_guard=False), num_places=num_places)
    began = time.perf_counter()
    assert loop.run()
    return calls, time.perf_counter() - began


def replayed(calls: list[Call], plan: Plan, folder: Path) -> tuple[float, float]:
    """CPU seconds of the same calls on objects of a run: of looks at the engine, which draw and measure; of others."""
    clock = Clock(calls[0].at)
    guard = QualityGuard()
    looking = 0.0
    with mock.patch("runner.report.progress.time", clock):
        progress = watching(plan, folder, guard)
        bound = [(call.at, getattr(guard if call.of_guard else progress, call.name), call.arguments) for call in calls]
        show = progress.show
        began = time.process_time()
        for at, method, arguments in bound:
            clock.now = at
            if method == show:
                before = time.process_time()
                method(*arguments)
                looking += time.process_time() - before
            else:
                method(*arguments)
        seconds = time.process_time() - began
        progress.close()
    return looking, seconds - looking


def report_counted(title: str, calls: list[Call], seconds: float, plan: Plan, arguments: argparse.Namespace) -> None:
    found = [replayed(calls, plan, arguments.folder) for _ in range(arguments.replays)]
    low, middle, high = statistics.quantiles(map(sum, found), n=4)
    looking, other = (statistics.median(part) for part in zip(*found, strict=True))
    answers = sum(call.name == "add_sample" for call in calls)
    print(
        f"{title}, counted: {answers} answers in {seconds:.3f} s; {len(calls)} calls take {middle * 1e3:.2f} ms of CPU "
        f"({low * 1e3:.2f} to {high * 1e3:.2f}), {middle / seconds:.2%} of the run: {looking / seconds * 1e3:.2f} ms a "
        f"second for the view and the metrics, {other / answers * 1e6:.2f} us an answer for the counts",
        flush=True,
    )


def report_slices(title: str, slices: Sequence[Slice]) -> None:
    groups = [slices[at : at + len(ABBA)] for at in range(0, len(slices), len(ABBA))]
    ratios = [_speed(first, fourth) / _speed(second, third) for first, second, third, fourth in groups]
    rate = sum(each.answers for each in slices) / sum(each.seconds for each in slices)
    shares = [rate * (_cpu(first, fourth) - _cpu(second, third)) for first, second, third, fourth in groups]
    blind = statistics.median(_speed(*group[1:3]) for group in groups)
    print(
        f"{title}, {len(slices)} slices: {rate:.0f} answers and {blind:.0f} tokens a second; watched by not watched, "
        f"median {_interval(ratios, statistics.median, '.4f')}, mean {_interval(ratios, statistics.fmean, '.4f')}; "
        f"CPU of looking {_interval(shares, statistics.fmean, '.2%')} of a core, of this process in all "
        f"{sum(each.cpu for each in slices) / sum(each.seconds for each in slices):.0%}",
        flush=True,
    )


def _speed(*slices: Slice) -> float:
    return sum(each.tokens for each in slices) / sum(each.seconds for each in slices)


def _cpu(*slices: Slice) -> float:
    """Seconds an answer."""
    return sum(each.cpu for each in slices) / sum(each.answers for each in slices)


def _interval(values: Sequence[float], middle: Callable[[Sequence[float]], float], form: str) -> str:
    chance = random.Random(0)
    found = sorted(middle(chance.choices(values, k=len(values))) for _ in range(BOOTSTRAPS))
    low, high = found[BOOTSTRAPS // 40], found[-BOOTSTRAPS // 40]
    return f"{middle(values):{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
