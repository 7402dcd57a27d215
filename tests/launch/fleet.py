"""Several runners on one folder, as processes of their own, with the stand-in engine."""

from __future__ import annotations

import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import pyarrow.dataset as pads

from tests.run.commands import command, digests, start, write_rows, write_slow_job

SHARD = 5
COMMON = ("job=generate", "input.path=rows.jsonl", "engine=echo", f"output.rows_per_shard={SHARD}")
SLOW = (*COMMON, "job.module=slow.py", "output.sync_seconds=0.1", "engine.max_num_seqs=4")


def prepare(folder: Path, num_rows: int, seconds: float = 0.0) -> dict[str, str]:
    """Rows and a job that takes ``seconds`` a row; returns what one uninterrupted runner makes of them."""
    write_rows(folder, num_rows)
    write_slow_job(folder, seconds)
    return whole(num_rows)


@cache
def whole(num_rows: int) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, num_rows)
        write_slow_job(folder, 0.0)
        code, _, err = command(folder, *SLOW, "output.dir=out")
        assert code == 0, err
        return digests(folder / "out")


def start_runner(folder: Path, output: str, partition: str, *more: str) -> subprocess.Popen[str]:
    return start(folder, *SLOW, f"output.dir={output}", f"partition={partition}", *more)


def row_ids(folder: Path) -> list[int]:
    return pads.dataset(folder / "data", format="ipc").to_table(columns=["row_id"]).column(0).to_pylist()


def process_of(task: str) -> int:
    """The runner of a launched task: the process whose command line is Python's, not that of a shell or srun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"launch.task={task}" in words and words[1:3] == ["-m", "runner"]:
            return int(folder.name)
    raise AssertionError(f"no process of task {task}")


def wait_for_parts(folder: Path, num_parts: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".runner/commits/*.json"))) < num_parts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
