"""Files that appear whole or not at all: several writers at once, writers that fail, and what killed ones have left."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from runner.output.whole_file import whole_or_nothing


def test_two_writers_at_once_both_come_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    with whole_or_nothing(target) as first:
        first.write_text("the first")
        monkeypatch.setattr("os.getpid", lambda: 1)
        with whole_or_nothing(target) as second:
            second.write_text("the second")
        assert target.read_text() == "the second"
    assert target.read_text() == "the first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(KeyError), whole_or_nothing(target) as path:
        path.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_only_what_killed_writers_have_left_is_swept(tmp_path: Path) -> None:
    target, scratch = tmp_path / "a[1].html", tmp_path / "scratch"
    scratch.mkdir()
    dead, alive, other = scratch / ".a[1].html.1.tmp", scratch / ".a[1].html.2.tmp", scratch / ".a1.html.3.tmp"
    for path in (dead, alive, other):
        path.touch()
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with whole_or_nothing(target, scratch) as draft:
            assert draft.parent == scratch
            draft.write_text("new")
    assert target.read_text() == "new"
    assert sorted(scratch.iterdir()) == sorted([alive, other])


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    left = tmp_path / ".x.1.tmp"
    left.touch()
    with whole_or_nothing(tmp_path / "x") as path:
        path.write_text("new")
    assert (tmp_path / "x").read_text() == "new"
    assert left.exists()
