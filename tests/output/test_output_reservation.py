"""Runners that begin on one new folder at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runner.output import Output
from runner.output.disk import Disk


class Interrupted(Disk):
    """Something else happens right before call or look number ``at``, counted from 1."""

    def __init__(self, at: int, happens: Callable[[], None]) -> None:
        self.count = 0
        self._at = at
        self._happens = happens

    def _step(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._happens()

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        self._step()

    def names(self, path: Path) -> list[str]:
        self._step()
        return super().names(path)

    def size(self, path: Path) -> int | None:
        self._step()
        return super().size(path)


def test_a_partition_may_begin_at_any_moment_of_another_ones_beginning(tmp_path, spec) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / f"out{at}"

        def begin(path: Path = path) -> None:
            Output.open(path, replace(spec, partition=(0, 3))).close()

        disk = Interrupted(at, begin)
        with Output.open(path, replace(spec, partition=(1, 3)), disk) as output:
            assert output.ranges_left == 2
        if disk.count < at:
            break
    assert at > 30
