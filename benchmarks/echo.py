"""Everything but the model: N generated rows through the whole path with engine=echo, rows/s and memory over time.

    python -m benchmarks.echo --rows 5000000 --folder /tmp/echo

Prints a table: seconds since the start, rows committed, rows/s since the line before, resident memory of the runner
with its children in MiB. While the input is indexed there are no rows yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS_PER_SHARD = 10_000
WORDS = (
    "the",
    "river",
    "stone",
    "lantern",
    "quiet",
    "market",
    "winter",
    "harbour",
    "letter",
    "garden",
    "engine",
    "paper",
)


def main() -> None:
    arguments = parse()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"rows-{arguments.rows}.jsonl"
    if not source.exists():
        write_rows(source, arguments.rows, arguments.words)
    print(f"{arguments.rows} rows, {source.stat().st_size / 2**20:.0f} MiB of JSONL")
    process = start(folder, source, arguments.settings)
    print(f"{'seconds':>8} {'rows':>10} {'rows/s':>8} {'MiB':>7}")
    for seconds, rows, rate, mebibytes in watch(process, folder / "out", arguments.every):
        print(f"{seconds:8.1f} {rows:10d} {rate:8.0f} {mebibytes:7.0f}", flush=True)
    sys.exit(process.returncode)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, help="in each prompt; default 5 to 40")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two lines")
    parser.add_argument("settings", nargs="*", help="more settings of the run, key=value")
    return parser.parse_args()


def write_rows(path: Path, num_rows: int, num_words: int | None = None) -> None:
    """Prompts of 5 to 40 words, or of ``num_words``, and a column beside them."""
    with path.open("w") as file:
        for i in range(num_rows):
            words = (WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(num_words or 5 + i % 36))
            file.write(json.dumps({"prompt": " ".join(words), "number": i}) + "\n")


def start(folder: Path, source: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runner", "job=generate", "engine=echo", f"input.path={source}"]
    command += [f"output.dir={folder / 'out'}", "output.overwrite=true", f"output.rows_per_shard={ROWS_PER_SHARD}"]
    return subprocess.Popen([*command, *settings], cwd=ROOT)


def watch(process: subprocess.Popen[bytes], output: Path, every: float) -> Iterator[tuple[float, int, float, float]]:
    began = last = time.monotonic()
    before = 0
    while True:
        try:
            process.wait(every)
        except subprocess.TimeoutExpired:
            memory = resident(process.pid)
        else:
            memory = 0.0
        now = time.monotonic()
        rows = ROWS_PER_SHARD * len(list((output / "data").glob("*.arrow")))
        yield now - began, rows, (rows - before) / (now - last), memory
        if process.returncode is not None:
            return
        before, last = rows, now


def resident(pid: int) -> float:
    """Resident memory of a process and its children in MiB; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
        ]
    except FileNotFoundError:
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / 2**20 + sum(resident(int(child)) for child in children)


if __name__ == "__main__":
    main()
