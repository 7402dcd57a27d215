"""Runners that begin on one new folder at the same time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_job import result_of

from runner.errors import LockedError
from runner.output import Output, OutputSpec, Reservation
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

    def read_if_there(self, path: Path) -> bytes | None:
        self._step()
        return super().read_if_there(path)

    def sync_again(self, path: Path) -> None:
        self._step()
        super().sync_again(path)

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


def test_a_partition_may_end_at_any_moment_of_another_ones_beginning(tmp_path, spec) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / f"out{at}"
        other = Output.open(path, replace(spec, partition=(0, 7)))
        assert other.take_range().stop == 8
        other.write(result_of(0))
        other.flush()

        def end(other: Output = other) -> None:
            for row in range(1, 8):
                other.write(result_of(row))
            other.finish()
            other.close()

        disk = Interrupted(at, end)
        with Output.open(path, replace(spec, partition=(1, 7)), disk) as output:
            assert output.ranges_left == 1
        if disk.count < at:
            other.close()
            break
    assert at > 30


CONTEXT = multiprocessing.get_context("fork")


def stay(path: Path, spec: OutputSpec, is_open, may_end) -> None:
    with Output.open(path, spec):
        is_open.set()
        may_end.wait(60)
    os._exit(0)


@contextmanager
def at_work(path: Path, spec: OutputSpec) -> Iterator[None]:
    """Another process holds the folder under a spec."""
    is_open, may_end = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=stay, args=(path, spec, is_open, may_end), daemon=True)
    process.start()
    assert is_open.wait(30)
    yield
    may_end.set()
    process.join()


@pytest.mark.parametrize("pair", [((0, 1), (1, 2)), ((1, 2), (3, 4)), ((0, 2), None)], ids=str)
def test_two_that_would_do_the_same_rows_are_not_at_work_together(tmp_path, spec, pair) -> None:
    path, specs = tmp_path / "out", [replace(spec, partition=partition) for partition in pair]
    for first, second in (specs, specs[::-1]):
        with at_work(path, first), pytest.raises(LockedError, match="would do the same rows"):
            Output.open(path, second)
        Output.open(path, second).close()


@pytest.mark.parametrize("pair", [((0, 2), (1, 2)), ((0, 2), (1, 4)), (None, None)], ids=str)
def test_two_that_share_the_rows_are(tmp_path, spec, pair) -> None:
    path, specs = tmp_path / "out", [replace(spec, partition=partition) for partition in pair]
    with at_work(path, specs[0]):
        Output.open(path, specs[1]).close()


def test_a_partition_that_begins_while_a_leasing_runs_model_loads_is_seen_before_a_lease(tmp_path, spec) -> None:
    path = tmp_path / "out"
    reservation = Reservation(path, replace(spec, partition=None))
    with at_work(path, replace(spec, partition=(0, 1))), pytest.raises(LockedError, match="would do the same rows"):
        Output.begin(reservation)
