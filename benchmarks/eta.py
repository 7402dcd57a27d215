"""How far the estimate of the time left is off at a quarter, half and three quarters of a run with a heavy tail.

    python -m benchmarks.eta

The engine is a model of one: places that each make a token a step, a step that takes a fixed time and more for each
sequence (8B on an H100), prompts that take theirs; its clock is computed, so that a run of half an hour takes seconds.
The estimates are those of a run, fed as a run feeds them. Prints the signed error in percent of what was really left:
by the lengths of the answers (ours), and by rows a second. Each figure is the median over several draws, with the
worst in brackets.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runner.report.meter import Meter
from runner.types import EngineStats, RowResult

STEP_SECONDS, ROW_SECONDS, PREFILL_SECONDS = 6.8e-3, 42e-6, 12e-3  # without a sequence, for each, for a prompt
LOOK_SECONDS = 0.5
AT = (0.25, 0.5, 0.75)

Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Case:
    """Rows whose answers are drawn one by one and cut at ``limit``, in ``places`` places."""

    rows: int
    places: int
    limit: int
    draw: Draw


CASES = {
    "log-normal, median 200, sigma 1.2": Case(3000, 256, 8192, lambda chance: chance.lognormvariate(5.3, 1.2)),
    "Pareto, alpha 1.3, from 80": Case(3000, 256, 16384, lambda chance: 80 * chance.paretovariate(1.3)),
    "19 of 20 short, 1 of 20 thinks for 4k-12k": Case(
        3000,
        256,
        16384,
        lambda chance: chance.uniform(50, 400) if chance.random() > 0.05 else chance.uniform(4e3, 12e3),
    ),
    "log-normal, all rows at once": Case(256, 256, 8192, lambda chance: chance.lognormvariate(5.3, 1.2)),
    "uniform 100..1024 (no tail)": Case(3000, 256, 1024, lambda chance: chance.uniform(100, 1024)),
}


class ModelEngine:
    """Answers of known lengths through places, on a clock of its own."""

    def __init__(self, case: Case, seed: int) -> None:
        chance = random.Random(seed)
        self._waiting = deque(max(1, min(int(case.draw(chance)), case.limit)) for _ in range(case.rows))
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


def looks(case: Case, seed: int) -> Iterator[tuple[float, float | None, float | None]]:
    """(seconds since the start, estimate by lengths, by rows a second) again and again; the last is the end."""
    engine, meter = ModelEngine(case, seed), Meter(case.rows, 0, case.limit, case.places)
    meter.add_taken(case.rows, case.rows)
    next_look = 0.0
    while engine.has_work:
        for length in engine.step():
            meter.lengths.add(length)
            meter.add_row(RowResult(0))
        if engine.now >= next_look:
            next_look = engine.now + LOOK_SECONDS
            meter.note(engine.now, engine.stats)
            yield engine.now, meter.seconds_left(engine.stats), meter.seconds_left_by_rows(engine.now)
    yield engine.now, 0.0, 0.0


def errors(case: Case, seed: int) -> list[tuple[float, float]]:
    """The two errors at each of `AT`, in percent of the seconds that were left."""
    seen = list(looks(case, seed))
    end = seen[-1][0]
    found = []
    for share in AT:
        now, by_lengths, by_rows = next(item for item in seen if item[0] >= share * end)
        left = end - now
        found.append(tuple(100 * ((guess or 0.0) - left) / left for guess in (by_lengths, by_rows)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=100, help="of the first draw")
    arguments = parser.parse_args()
    print(f"{'error of the time left, %':<56}" + "".join(f"{f'at {share:.0%}':>18}" for share in AT))
    for name, case in CASES.items():
        found = [errors(case, seed) for seed in range(arguments.seed, arguments.seed + arguments.draws)]
        for which, title in enumerate((f"{name}: by lengths", "  by rows a second")):
            cells = ([run[place][which] for run in found] for place in range(len(AT)))
            print(f"{title:<56}" + "".join(f"{_cell(values):>18}" for values in cells), flush=True)


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):+.0f} ({max(values, key=abs):+.0f})"


if __name__ == "__main__":
    main()
