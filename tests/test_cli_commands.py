"""The commands beside the run: help on asking, exit 64 and one line for what is no folder of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OVER_A_FOLDER = ("verify", "repair", "status", "retry", "export", "report")
OVER_A_JOB = ("preview", "preflight", "profile")


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"runner.{name}", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", (*OVER_A_FOLDER, *OVER_A_JOB))
def test_help_is_on_stdout_and_names_the_command(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m runner.{name}" in done.stdout
    assert "Exit codes: 0" in done.stdout


@pytest.mark.parametrize("name", OVER_A_FOLDER)
def test_another_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    done = command(name, str(tmp_path), *(("--to", "jsonl") if name == "export" else ()))
    assert done.returncode == 64
    assert str(tmp_path) in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ("verify", "repair", "status"))
def test_a_second_argument_is_refused(name: str, tmp_path: Path) -> None:
    done = command(name, str(tmp_path), "sampling.n=2")
    assert done.returncode == 64
    assert "sampling.n=2" in done.stderr
