"""Who holds a folder, and who only looks."""

from __future__ import annotations

import subprocess
import sys

from runner.output.lock import FolderLock, held_locks, is_locked

LOOK = """
import sys
from pathlib import Path
from runner.output.lock import is_locked
print(sum(is_locked(Path(sys.argv[1])) for _ in range(20_000)))
"""


def test_those_who_look_at_once_do_not_take_one_another_for_holders(tmp_path):
    path = tmp_path / "0-of-1.lock"
    path.touch()
    looking = [
        subprocess.Popen([sys.executable, "-c", LOOK, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0] for process in looking] == ["0\n"] * 3


def test_a_holder_is_seen_from_another_process_until_it_lets_go(tmp_path):
    path = tmp_path / "locks" / "0-of-1.lock"
    path.parent.mkdir()
    look = [sys.executable, "-c", LOOK.replace("20_000", "1"), str(path)]
    lock = FolderLock(path)
    assert subprocess.check_output(look, text=True) == "1\n"
    lock.release()
    assert subprocess.check_output(look, text=True) == "0\n"


def test_a_lock_that_is_not_there_is_not_made(tmp_path):
    assert not is_locked(tmp_path / "0-of-1.lock")
    assert held_locks(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
