"""Exit codes where nothing can be said: stderr is a file on a disk that is full, as a launched process's log may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.commands import ROOT, write_rows


@pytest.mark.parametrize(("path", "code"), [("rows.jsonl", 0), ("no.jsonl", 64)])
def test_a_full_disk_under_stderr_does_not_change_the_exit_code(tmp_path: Path, path: str, code: int) -> None:
    write_rows(tmp_path, 3)
    command = [sys.executable, "-m", "runner", "job=generate", f"input.path={path}", "engine=echo", "output.dir=out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # with it nothing would wait in a buffer until the end
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, cwd=tmp_path, env=environment, stderr=full, check=False)
    assert ended.returncode == code
    assert (tmp_path / "out/_SUCCESS").exists() == (code == 0)
