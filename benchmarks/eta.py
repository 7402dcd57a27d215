"""How far the estimate of the time left is off at a quarter, half and three quarters of a run with a heavy tail.

    python -m benchmarks.eta

The engine is a model of one: places that each make a token a step, a step that takes a fixed time and more for each
sequence (8B on an H100), prompts that take theirs; its clock is computed, so that a run of half an hour takes seconds.
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

from runner.report.lengths import Lengths, Survival
from runner.report.meter import Meter
from runner.types import EngineStats, RowResult

STEP_SECONDS, ROW_SECONDS, PREFILL_SECONDS = 6.8e-3, 42e-6, 12e-3  # without a sequence, for each, for a prompt
LOOK_SECONDS = 0.5
AT = (0.25, 0.5, 0.75)
TITLES = ("by lengths", "by rows a second", "by lengths, had their distribution been known")
KNOWN_DRAWS = 50_000

Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Case:
    """Rows whose answers are drawn one by one and cut at ``limit``, in ``places`` places."""

    rows: int
    places: int
    limit: int
    draw: Draw

    def length(self, chance: random.Random) -> int:
        return max(1, int(min(self.draw(chance), self.limit)))


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
    "uniform 100..1024 (no tail)": Case(3000, 256, 1024, lambda chance: chance.uniform(100, 1024)),
}


class ModelEngine:
    """Answers of known lengths through places, on a clock of its own."""

    def __init__(self, case: Case, seed: int) -> None:
        chance = random.Random(seed)
        self._waiting = deque(case.length(chance) for _ in range(case.rows))
        self._running: list[list[int]] = []  # [tokens so far, length]
        self._places = case.places
        self.now = 0.0
        self.stats = EngineStats(device="none")

    def step(self) -> list[int]:
        """The lengths of the answers that a step finished."""
        admitted = min(self._places - len(self._running), len(self._waiting))
        self._running += [[0, self._waiting.popleft()] for _ in range(admitted)]
        prefill, decode = admitted * PREFILL_SECONDS, STEP_SECONDS + ROW_SECONDS * len(self._running)
        self.now += prefill + decode
        for item in self._running:
            item[0] += 1
        done = [length for made, length in self._running if made == length]
        self._running = [item for item in self._running if item[0] < item[1]]
        stats = self.stats
        stats.steps += 1
        stats.completion_tokens += len(self._running) + len(done)
        stats.prefill_seconds += prefill
        stats.decode_seconds += decode
        stats.num_running, stats.num_waiting = len(self._running), min(len(self._waiting), self._places)
        stats.running_lengths = [made for made, _ in self._running]
        return done

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)


class KnownLengths(Lengths):
    """Knows of what the answers are drawn, whatever it sees of them."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.limit)
        chance = random.Random(0)
        ends, counts = np.unique([case.length(chance) for _ in range(KNOWN_DRAWS)], return_counts=True)
        shares = 1.0 - counts.cumsum() / counts.sum()
        self._known = Survival(ends.astype(np.float64), shares, 1.0, float(case.limit))

    def survival(self, running: Sequence[int]) -> Survival:
        return self._known


def looks(case: Case, seed: int) -> Iterator[tuple[float, tuple[float | None, ...]]]:
    """(seconds since the start, an estimate for each of `TITLES`) again and again; the last is the end."""
    engine = ModelEngine(case, seed)
    meter, knowing = (Meter(case.rows, 0, case.limit, case.places) for _ in range(2))
    knowing.lengths = KnownLengths(case)
    next_look = 0.0
    for each in (meter, knowing):
        each.add_taken(case.rows, case.rows)
    while engine.has_work:
        done = engine.step()
        is_time = engine.now >= next_look
        for each in (meter, knowing):
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


def errors(case: Case, seed: int) -> list[tuple[float, ...]]:
    """The error of each estimate at each of `AT`, in percent of the seconds that were left."""
    seen = list(looks(case, seed))
    end = seen[-1][0]
    found = []
    for share in AT:
        now, guesses = next(item for item in seen if item[0] >= share * end)
        left = end - now
        found.append(tuple(100 * ((guess or 0.0) - left) / left for guess in guesses))
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


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):+.0f} ({max(values, key=abs):+.0f})"


if __name__ == "__main__":
    main()
