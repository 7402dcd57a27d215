"""How far the estimate of the time left is off at a quarter, half and three quarters of a run with a heavy tail.

    python -m benchmarks.eta

The engine is a model of one: places that each make a token a step, a step that takes a fixed time and more for each
sequence and for the cache that it reads (8B on an H100), prompts that take steps of their own, and waits for kernels
and graphs before the first of them; its clock is computed, so that a run of half an hour takes seconds.
The estimates are those of a run, fed as a run feeds them. Prints the signed error in percent of what was really left:
by the lengths of the answers (ours), by rows a second, and by ours with the true distribution of the lengths instead of
the observed ones: how far off is who knows all but the draw. Each figure is the median over several draws, with the
worst in brackets.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.cards import ModelShape
from runner.report.lengths import Lengths, Running, Survival
from runner.report.meter import Meter
from runner.types import EngineStats, RowResult

LOOK_SECONDS = 0.5
AT = (0.25, 0.5, 0.75)
TITLES = ("by lengths", "by rows a second", "by lengths, had their distribution been known")
KNOWN_DRAWS = 50_000
PROMPTS = (100, 1024)  # tokens of a prompt, uniform
SHAPE = ModelShape(step_bytes=15e9, weight_bytes=16e9, decode_flops=15e9, prefill_flops=14e9, kv_bytes=131_072)
IN_FLIGHT = 2  # times the places: so many rows are with the engine, which starts the longest first at the end

Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Costs:
    """Seconds of a step without a sequence, more for each, for each token of cache that it reads, and for a prompt.

    A step reads ``prompts`` of them at most, and nothing else; the first ones wait ``first`` for kernels and graphs.
    """

    step: float = 5.6e-3
    row: float = 5e-6
    cached: float = 43e-9
    prompt: float = 12.4e-3
    prompts: int = 29
    first: tuple[float, ...] = (1.5, 1.5, 0.5)


@dataclass(frozen=True)
class Case:
    """Rows whose answers are drawn one by one and cut at ``limit``, in ``places`` places.

    With ``known`` each row may get just as many tokens as it does, and nothing else ends it.
    """

    rows: int
    places: int
    limit: int
    draw: Draw
    known: bool = False

    def length(self, chance: random.Random) -> int:
        return max(1, int(min(self.draw(chance), self.limit)))


def _uniform(chance: random.Random) -> float:
    return chance.uniform(100, 1024)


CASES = {
    "log-normal, median 200, sigma 1.2": Case(3000, 256, 8192, lambda chance: chance.lognormvariate(5.3, 1.2)),
    "Pareto, alpha 1.3, from 80": Case(3000, 256, 16384, lambda chance: 80 * chance.paretovariate(1.3)),
    "19 of 20 short, 1 of 20 thinks for 4k-12k": Case(
        3000,
        256,
        16384,
        lambda chance: chance.uniform(50, 400) if chance.random() > 0.05 else chance.uniform(4e3, 12e3),
    ),
    "19 of 20 short, 1 of 20 until the limit": Case(
        3000, 256, 8192, lambda chance: chance.uniform(50, 400) if chance.random() > 0.05 else math.inf
    ),
    "log-normal, all rows at once": Case(256, 256, 8192, lambda chance: chance.lognormvariate(5.3, 1.2)),
    "uniform 100..1024 (no tail)": Case(3000, 256, 1024, _uniform),
    "uniform 100..1024, all 512 at once": Case(512, 512, 1024, _uniform),
    "uniform 100..1024 as each row asks, all 512 at once": Case(512, 512, 8192, _uniform, known=True),
    "uniform 100..1024 as each row asks, 5 rows a place": Case(2560, 512, 8192, _uniform, known=True),
}


@dataclass(eq=False)
class Answer:
    prompt: int
    length: int
    made: int = 0


class ModelEngine:
    """Answers of known lengths through places, on a clock of its own."""

    def __init__(self, case: Case, seed: int, costs: Costs) -> None:
        chance, prompts = random.Random(seed), random.Random(seed + 1)
        self._case, self._costs = case, costs
        self._unread = deque(Answer(prompts.randint(*PROMPTS), case.length(chance)) for _ in range(case.rows))
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        self._pauses = deque(costs.first)
        self.now = 0.0
        self.stats = EngineStats(device="NVIDIA H100 80GB HBM3")

    def step(self) -> list[int]:
        """The lengths of the answers that a step finished."""
        self._read()
        free = self._case.places - len(self._running)
        worth_it = min(len(self._waiting), max(self._case.places // 8, 1)) if self._running else 1
        if self._waiting and free >= worth_it:
            self._prefill(min(free, len(self._waiting), self._costs.prompts))
        else:
            self._decode()
        done = [answer.length for answer in self._running if answer.made == answer.length]
        self._running = [answer for answer in self._running if answer.made < answer.length]
        self._tell()
        return done

    @property
    def num_read(self) -> int:
        return self._case.rows - len(self._unread)

    @property
    def has_work(self) -> bool:
        return bool(self._unread or self._waiting or self._running)

    def _read(self) -> None:
        room = IN_FLIGHT * self._case.places - len(self._running) - len(self._waiting)
        if not self._unread or room <= 0:
            return
        self._waiting += [self._unread.popleft() for _ in range(min(room, len(self._unread)))]
        if not self._unread and self._case.known:
            self._waiting = deque(sorted(self._waiting, key=lambda answer: -answer.length))

    def _prefill(self, count: int) -> None:
        admitted = [self._waiting.popleft() for _ in range(count)]
        pause = self._pauses.popleft() if self._pauses else 0.0
        seconds = self._costs.prompt * sum(answer.prompt for answer in admitted) / (sum(PROMPTS) / 2)
        self._running += admitted
        self.now += pause + seconds
        self.stats.idle_seconds += pause
        self.stats.prefill_seconds += seconds
        self.stats.prompt_tokens += sum(answer.prompt for answer in admitted)
        self._count(admitted)

    def _decode(self) -> None:
        cached = sum(answer.prompt + answer.made for answer in self._running)
        seconds = self._costs.step + self._costs.row * len(self._running) + self._costs.cached * cached
        self.now += seconds
        self.stats.decode_seconds += seconds
        self.stats.kv_tokens_read += cached
        self._count(self._running)

    def _count(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            answer.made += 1
        self.stats.steps += 1
        self.stats.completion_tokens += len(answers)

    def _tell(self) -> None:
        stats = self.stats
        stats.num_running, stats.num_waiting = len(self._running), len(self._waiting)
        stats.running_lengths = [answer.made for answer in self._running]
        known, limit = self._case.known, self._case.limit
        stats.running_limits = [answer.length if known else limit for answer in self._running]
        stats.running_certain = known


class KnownLengths(Lengths):
    """Knows of what the answers are drawn, whatever it sees of them."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.limit)
        chance = random.Random(0)
        ends, counts = np.unique([case.length(chance) for _ in range(KNOWN_DRAWS)], return_counts=True)
        shares = 1.0 - counts.cumsum() / counts.sum()
        self._known = Survival(ends.astype(np.float64), shares, 1.0, float(case.limit))

    def survival(self, running: Running) -> Survival:
        return self._known


def looks(case: Case, seed: int) -> Iterator[tuple[float, tuple[float | None, ...]]]:
    """(seconds since the start, an estimate for each of `TITLES`) again and again; the last is the end."""
    engine = ModelEngine(case, seed, Costs())
    meter, knowing = (Meter(case.rows, 0, case.limit, case.places, SHAPE) for _ in range(2))
    knowing.lengths = KnownLengths(case)
    next_look, taken = 0.0, 0
    while engine.has_work:
        done = engine.step()
        is_time = engine.now >= next_look
        more, taken = engine.num_read - taken, engine.num_read
        for each in (meter, knowing):
            each.add_taken(more, more)
            for length in done:
                each.lengths.add(length)
                each.add_row(RowResult(0))
            if is_time:
                each.note(engine.now, engine.stats)
        if is_time:
            next_look = engine.now + LOOK_SECONDS
            left = meter.seconds_left(engine.stats), meter.seconds_left_by_rows(engine.now)
            yield engine.now, (*left, knowing.seconds_left(engine.stats))
    yield engine.now, (0.0,) * len(TITLES)


def errors(case: Case, seed: int) -> list[tuple[float | None, ...]]:
    """The error of each estimate at each of `AT`, in percent of what was left; None without an estimate."""
    seen = list(looks(case, seed))
    end = seen[-1][0]
    found = []
    for share in AT:
        now, guesses = next(item for item in seen if item[0] >= share * end)
        left = end - now
        found.append(tuple(None if guess is None else 100 * (guess - left) / left for guess in guesses))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=100, help="of the first draw")
    arguments = parser.parse_args()
    print(f"{'error of the time left, %':<56}" + "".join(f"{f'at {share:.0%}':>18}" for share in AT))
    for name, case in CASES.items():
        found = [errors(case, seed) for seed in range(arguments.seed, arguments.seed + arguments.draws)]
        print(name)
        for which, title in enumerate(TITLES):
            cells = ([run[place][which] for run in found] for place in range(len(AT)))
            print(f"  {title:<54}" + "".join(f"{_cell(values):>18}" for values in cells), flush=True)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if 2 * len(known) <= len(values):
        return "no estimate"
    return f"{statistics.median(known):+.0f} ({max(known, key=abs):+.0f})"


if __name__ == "__main__":
    main()
