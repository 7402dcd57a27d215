"""Rows a second of the JSONL and Parquet readers and of the index pass, beside what orjson alone parses.

    python benchmarks/read.py [--rows 200000] [--words 200]

The files are written to a temporary folder. The seconds are CPU time of this process.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runner.config import InputConfig
from runner.input import InventoryReader, build_inventory


def rows(count: int, words: int) -> Iterable[dict[str, Any]]:
    rng = random.Random(0)
    vocabulary = [f"word{rng.randrange(10**6)}" for _ in range(5000)]
    for i in range(count):
        prompt = " ".join(rng.choices(vocabulary, k=words))
        yield {"id": i, "prompt": prompt, "topic": rng.choice(vocabulary), "score": rng.random(), "tags": ["a", "b"]}


def write(folder: Path, count: int, words: int) -> tuple[Path, Path]:
    lines, table = folder / "rows.jsonl", folder / "rows.parquet"
    with lines.open("wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in rows(count, words))
    with pq.ParquetWriter(table, pa.Table.from_pylist(list(rows(1, words))).schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows(count, words):
            batch.append(row)
            if len(batch) == 20_000:
                writer.write_table(pa.Table.from_pylist(batch))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch))
    return lines, table


def parse_alone(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            orjson.loads(line)


def drain(path: Path) -> None:
    reader = InventoryReader(build_inventory(InputConfig(path=str(path))))
    deque(reader.read(0, sys.maxsize), maxlen=0)


def timed(name: str, count: int, work: Callable[[], Any]) -> None:
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    print(f"{name:28} {count / seconds:12,.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines, table = write(Path(folder), options.rows, options.words)
        print(f"{options.rows:,} rows, {lines.stat().st_size / 1e6:,.0f} MB of JSONL")
        inventory = build_inventory(InputConfig(path=str(lines)))
        reader = InventoryReader(inventory)
        timed("orjson.loads a line", options.rows, lambda: parse_alone(lines))
        timed("JSONL index pass", options.rows, lambda: build_inventory(InputConfig(path=str(lines))))
        timed("JSONL reader", options.rows, lambda: deque(reader.read(0, sys.maxsize), maxlen=0))
        timed("Parquet index and reader", options.rows, lambda: drain(table))


if __name__ == "__main__":
    main()
