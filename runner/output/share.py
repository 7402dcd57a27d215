"""The ranges that one run does: a fixed share of them, or those that it leases as it gets free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from runner.errors import LockedError
from runner.output.attempts import shown
from runner.output.commits import newest_generations
from runner.output.folder import Folder
from runner.output.layout import Layout, locked_partition
from runner.output.leases import Leases
from runner.output.lock import is_locked
from runner.output.ranges import OpenRange, Range, num_ranges
from runner.output.recovery import journalled_ranges, open_ranges, replay

_IDLE_SECONDS = 0.2
_LOOK_SECONDS = 1.0

Partition = tuple[int, int] | None
"""(w, W): the ranges k with k mod W = w. None: leased ones."""


@dataclass(frozen=True)
class Held:
    """What a run has in work: ranges, and the rows that they lack. ``is_hungry``: it could begin more at once."""

    num_ranges: int
    num_rows: int
    is_hungry: bool = False


class Share(Protocol):
    """What a run takes its ranges from."""

    @property
    def left(self) -> int:
        """Ranges that others or this run have still to take up or, when others hold them, to commit."""

    def take(self, held: Held, max_open: int) -> Range | None:
        """The next range; None when there is none to take now, or those ``held`` are enough: ``max_open`` at most."""

    def close(self) -> None: ...


class FixedShare:
    """The ranges of one partition, in order."""

    def __init__(self, ranges: Iterable[OpenRange]) -> None:
        self._ranges = [item for item in ranges if not item.is_complete]
        self._ranges.reverse()

    @property
    def left(self) -> int:
        return len(self._ranges)

    def take(self, held: Held, max_open: int) -> Range | None:
        return range_of(self._ranges.pop()) if self._ranges and held.num_ranges < max_open else None

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class LeasedShare:
    """Ranges leased one at a time, until every range is committed by someone.

    ``adopt`` is told of each before it is given, with what journals held of it. A run that has nothing to do
    waits for the holders of the rest, and takes over what a dead one leaves.
    """

    folder: Folder
    leases: Leases
    num_rows: int
    adopt: Callable[[OpenRange], None]

    def __post_init__(self) -> None:
        missing = open_ranges(self.folder, range(num_ranges(self.folder.job, self.num_rows)), self.num_rows)
        self._generations = {index: item.generation for index, item in missing.items()}
        self._journalled = journalled_ranges(self.folder)
        self._mine: set[int] = set()
        self._free: list[int] = []
        self._num_live = 1
        self._looked = float("-inf")
        self._began = float("inf")  # when it got its first range
        self._look()

    @property
    def left(self) -> int:
        if self._generations.keys() <= self._mine:
            return 0
        if not self._free:
            self._look_if_due()
        return len(self._generations.keys() - self._mine)

    def take(self, held: Held, max_open: int) -> Range | None:
        if self._is_enough(held, max_open):
            return None
        self._look_if_due()
        if self._is_enough(held, max_open):  # what was free at its last look, others may have taken since
            return None
        while (index := self._claim()) is not None:
            ranges = open_ranges(self.folder, [index], self.num_rows)
            earlier = self.leases.history(index) | self._journalled.get(index, set())
            if earlier:
                replay(self.folder, ranges, partition=None, attempts=earlier)
            self._mine.add(index)
            self._began = min(self._began, time.monotonic())
            item = ranges[index]
            found = None if item.is_complete else range_of(item)
            self.adopt(item)
            if found is not None:
                return found
        return None

    def close(self) -> None:
        self.leases.close()

    def _is_enough(self, held: Held, max_open: int) -> bool:
        """Rows that a run would begin at once it may take until it has its part of all that is left.

        Of the others' ranges all rows count as left. A store it may keep while it holds fewer ranges than are free for
        each process: near the end nobody sits on rows that others would begin at once. In its first second it keeps
        none: those that begin with it are not seen yet.
        """
        if not held.num_ranges:
            return False
        if held.num_ranges >= max_open:
            return True
        if held.is_hungry:
            elsewhere = len(self._generations.keys() - self._mine) * self.folder.job.rows_per_shard
            return held.num_rows * self._num_live >= held.num_rows + elsewhere
        is_new = time.monotonic() - self._began < _LOOK_SECONDS
        return is_new or held.num_ranges >= len(self._free) // self._num_live

    def _claim(self) -> int | None:
        while self._free:
            index = self._free.pop()
            if self.leases.claim(index) and not self._is_committed(index):
                return index
        return None

    def _is_committed(self, index: int) -> bool:
        """Whether another committed it since we last looked."""
        layout = self.folder.layout
        return self.folder.disk.size(layout.commit(index, self._generations[index])) is not None

    def _look_if_due(self) -> None:
        if time.monotonic() - self._looked >= (_LOOK_SECONDS if self._free else _IDLE_SECONDS):
            self._look()

    def _look(self) -> None:
        """Leases before commits: a lease that is gone had become a commit."""
        held = self.leases.look()
        done = newest_generations(self.folder.disk, self.folder.layout)
        for index in [index for index, generation in self._generations.items() if done.get(index, 0) >= generation]:
            del self._generations[index]
        self._free = sorted(self._generations.keys() - held - self._mine, reverse=True)
        self._num_live = self.leases.num_live()
        self._looked = time.monotonic()


def refuse_overlap(layout: Layout, partition: Partition) -> None:
    """Raises `LockedError` while a run is at work under another partition that holds ranges of this one.

    Nothing would be written twice, but all of it would be done twice. Runs that lease share among themselves.
    """
    for path in sorted(layout.locks.glob("*.lock")):
        other = locked_partition(path.name)
        if other != partition and _overlap(partition, other) and is_locked(path):
            raise LockedError(
                f"partition={shown(partition)}: a run with partition={shown(other)} is at work on {layout.root} and "
                "would do the same rows; wait for it, stop it, or give all runs the same division"
            )


def _overlap(one: Partition, other: Partition) -> bool:
    """Whether two partitions of an input that is long enough have ranges in common."""
    return one is None or other is None or (one[0] - other[0]) % math.gcd(one[1], other[1]) == 0


def range_of(item: OpenRange) -> Range:
    return Range(item.index, item.start, item.stop, frozenset(item.done), item.redo)
