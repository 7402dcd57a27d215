"""Going on after a kill: a million tiny rows through the real command line, killed at 60 %, started again.

    python -m benchmarks.resume --folder /tmp/resume

Prints how long the command takes to be at work again, beside `--version` (the interpreter alone), and the resident
memory of the runner over its whole way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.echo import ROOT, resident

ROWS_PER_SHARD = 1000
POLL_SECONDS = 0.02
LINES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    folder, rows = arguments.folder, arguments.rows
    folder.mkdir(parents=True, exist_ok=True)
    source, out = folder / "rows.jsonl", folder / "out"
    source.write_text("".join(json.dumps({"prompt": f"row {i}"}) + "\n" for i in range(rows)))
    shutil.rmtree(out, ignore_errors=True)
    command = [f"input.path={source}", f"output.dir={out}", "job=generate", "engine=echo", "sampling.temperature=0"]
    command.append(f"output.rows_per_shard={ROWS_PER_SHARD}")
    print(f"{'rows':>9} {'MiB':>6}")
    first = start(command)
    for done in watch(first, out, rows):
        if done >= 0.6 * rows:
            first.kill()
    first.wait()
    attempts = set((out / ".runner/attempts").iterdir())
    began = time.monotonic()
    second = start(command)
    while set((out / ".runner/attempts").iterdir()) == attempts and second.poll() is None:
        time.sleep(POLL_SECONDS)
    at_work = time.monotonic() - began
    for _ in watch(second, out, rows):
        pass
    began = time.monotonic()
    start(["--version"], stdout=subprocess.DEVNULL).wait()
    interpreter = time.monotonic() - began
    began = time.monotonic()
    code = start(command).wait()
    print(f"at work again after {at_work:.2f} s; the finished job is left alone after {time.monotonic() - began:.2f} s")
    print(f"the interpreter alone: {interpreter:.2f} s; exit codes {second.returncode}, {code}")


def start(arguments: list[str], **options: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runner", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ, **options)


def watch(process: subprocess.Popen[bytes], out: Path, rows: int) -> Iterator[int]:
    """The rows committed, again and again until the process has ended; prints a line each tenth of the way."""
    shown = -1
    while process.poll() is None:
        done = ROWS_PER_SHARD * len(list((out / "data").glob("*.arrow")))
        if done * LINES // rows > shown:
            shown = done * LINES // rows
            print(f"{done:9d} {resident(process.pid):6.0f}", flush=True)
        yield done
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
