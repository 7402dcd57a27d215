"""The brake of loops that start runs by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_job import result_of

from runner.errors import StalledError
from runner.output import Output


def attempt(path, spec, rows=()):
    with Output.open(path, spec) as output:
        output.take_range()
        for row in rows:
            output.write(result_of(row))


def test_three_attempts_without_a_row_stop_a_loop_once(tmp_path, spec):
    path, loop = tmp_path / "out", replace(spec, max_idle_attempts=3)
    for _ in range(2):
        for _ in range(3):
            attempt(path, loop)
        with pytest.raises(StalledError, match=r"max_idle_attempts=3: the last 3 attempts .* finished no row"):
            attempt(path, loop)
    assert StalledError.exit_code == 1


def test_progress_begins_the_count_anew(tmp_path, spec):
    path, loop = tmp_path / "out", replace(spec, max_idle_attempts=2)
    for rows in ((), (0, 1), (), (), ()):
        if rows == () and len(list((path / ".runner/attempts").glob("*"))) == 4:
            with pytest.raises(StalledError):
                attempt(path, loop)
        else:
            attempt(path, loop, rows)


def test_a_person_who_starts_again_is_not_stopped(tmp_path, spec):
    path = tmp_path / "out"
    for _ in range(6):
        attempt(path, spec)
    loop = replace(spec, max_idle_attempts=3)
    for _ in range(3):
        attempt(path, loop)
    attempt(path, spec)
    attempt(path, loop)


def test_another_partition_or_task_is_another_loop(tmp_path, spec):
    path, loop = tmp_path / "out", replace(spec, max_idle_attempts=1, partition=(0, 2))
    attempt(path, loop)
    attempt(path, replace(loop, partition=(1, 2)))
    attempt(path, replace(loop, task="other"))
    with pytest.raises(StalledError):
        attempt(path, loop)
