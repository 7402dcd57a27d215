"""What sharing one folder costs: rows a second of 1, 2, 4 and 8 processes that lease their ranges.

    python -m benchmarks.scaling --folder /tmp/scaling

Each process is a whole `python -m runner` with the stand-in engine and a job that sleeps for each row, so that cores
do not limit: what is lost is lost to leases, commits and waiting for one another. The time runs from the moment at
which all have read their first rows to the last commit. With --uneven every second process takes twice as long a row.

Efficiency is rows a second over what the same processes would do if each had its own single rate. Spread is the time
between the last commits of the first and the last process to end; leases promise at most one range of the slowest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.echo import write_rows

ROOT = Path(__file__).resolve().parents[1]
ROWS_PER_SHARD = 50
JOB = """
import os, time
from pathlib import Path

_SECONDS = float(os.environ["ROW_SECONDS"])
_READY, _GO = Path(f"ready-{os.getpid()}"), Path("go")


def prompt(row):
    if not _READY.exists():
        _READY.touch()
        while not _GO.exists():
            time.sleep(0.005)
    return row["prompt"]


def parse(row, completion):
    time.sleep(_SECONDS)
    return {}
"""


@dataclass(frozen=True)
class Figures:
    """Rows a second of all processes, and the seconds between the ends of the first and the last of them."""

    rate: float
    spread: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to be measured")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each measurement takes, without the start"
    )
    parser.add_argument("--row-seconds", type=float, default=0.02)
    parser.add_argument("--uneven", action="store_true")
    arguments = parser.parse_args()
    row_seconds, alone = arguments.row_seconds, 0.0
    print("processes    rows/s  efficiency  spread (s)  a range (s)")
    for number in arguments.processes:
        paces = [row_seconds * (1 + (arguments.uneven and k % 2)) for k in range(number)]
        share = sum(row_seconds / pace for pace in paces)
        figures = measure(arguments.folder, paces, int(arguments.seconds / row_seconds * share))
        alone = alone or figures.rate / share
        efficiency, longest = figures.rate / (alone * share), max(paces) * ROWS_PER_SHARD
        print(
            f"{number:9}  {figures.rate:8.1f}  {efficiency:10.3f}  {figures.spread:10.2f}  {longest:11.2f}", flush=True
        )


def measure(folder: Path, paces: Sequence[float], num_rows: int) -> Figures:
    """``paces`` has the seconds a row of each process."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    num_rows -= num_rows % ROWS_PER_SHARD
    write_rows(folder / "rows.jsonl", num_rows)
    (folder / "job.py").write_text(JOB)
    processes = [start(folder, pace) for pace in paces]
    while len(list(folder.glob("ready-*"))) < len(paces):
        assert all(process.poll() is None for process in processes), (folder / "log").read_text()
        time.sleep(0.01)
    began = time.time()
    (folder / "go").touch()
    assert [process.wait() for process in processes] == [0] * len(paces), (folder / "log").read_text()
    ends = last_commits(folder / "out")
    return Figures(num_rows / (max(ends) - began), max(ends) - min(ends))


def start(folder: Path, row_seconds: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROW_SECONDS": str(row_seconds), "OMP_NUM_THREADS": "1"}
    settings = ["job=generate", "job.module=job.py", "engine=echo", "input.path=rows.jsonl", "output.dir=out"]
    settings += ["partition=auto", f"output.rows_per_shard={ROWS_PER_SHARD}", "engine.max_num_seqs=8"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "runner", *settings], cwd=folder, env=environment, stderr=log)


def last_commits(output: Path) -> list[float]:
    """When each process made its last commit, in seconds since 1970."""
    ends: dict[int, float] = {}
    for path in (output / ".runner" / "commits").glob("*.json"):
        attempt = json.loads(path.read_text())["attempt"]
        ends[attempt] = max(ends.get(attempt, 0.0), path.stat().st_mtime)
    return list(ends.values())


if __name__ == "__main__":
    main()
