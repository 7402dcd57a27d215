"""`python -m runner` as a user starts it: a process of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as pads

from runner.cli.compose import compose
from runner.run import run
from runner.signals import StopFlag

ROOT = Path(__file__).resolve().parents[2]
ECHO = ("job=generate", "input.path=rows.jsonl", "engine=echo")

SLOW_JOB = """
import time
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    time.sleep({seconds})
    return {{}}
"""


def start(folder: Path, *arguments: str, module: str = "runner") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(folder: Path, *arguments: str, module: str = "runner") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = start(folder, *arguments, module=module)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run_here(folder: Path, *arguments: str) -> int:
    """The exit code of a run whose process is this one, where torch is loaded already; its engine has its own."""
    with contextlib.chdir(folder):
        return run(compose(list(arguments)), StopFlag())


def echo(folder: Path, *arguments: str) -> tuple[int, str, str]:
    return command(folder, *ECHO, *arguments)


def echo_here(folder: Path, *arguments: str) -> int:
    """The exit code alone of `echo`, in this process: for the runs that a test only builds on."""
    return run_here(folder, *ECHO, *arguments)


def write_rows(folder: Path, num_rows: int) -> None:
    lines = (json.dumps({"prompt": f"question {i}", "n": i}) for i in range(num_rows))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def write_slow_job(folder: Path, seconds: float) -> None:
    (folder / "slow.py").write_text(SLOW_JOB.format(seconds=seconds))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every part file, by its path in the output folder."""
    parts = [*folder.glob("data/*.arrow"), *folder.glob("errors/*.arrow")]
    return {str(part.relative_to(folder)): hashlib.sha256(part.read_bytes()).hexdigest() for part in sorted(parts)}


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of an output folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def read_data(folder: Path) -> list[dict[str, object]]:
    """The rows of an output folder's data."""
    return pads.dataset(folder / "data", format="ipc").to_table().to_pylist()
