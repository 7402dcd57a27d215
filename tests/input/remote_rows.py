"""The same 5,000 rows in four forms, as tests of addresses put them behind one, and how they read them back."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.config import InputConfig
from runner.input import InventoryReader, build_inventory
from runner.types import SourceRow

ROWS = [{"prompt": f"question {i} " + "x" * 50, "n": i} for i in range(5000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=1000)
    return sink.getvalue().to_pybytes()


def _arrow() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return sink.getvalue().to_pybytes()


OBJECTS: Mapping[str, bytes] = MappingProxyType(
    {"a.jsonl": LINES, "a.jsonl.gz": gzip.compress(LINES), "a.parquet": _parquet(), "a.arrow": _arrow()}
)


def values(path: Any, start: int = 0, stop: int = sys.maxsize) -> list[dict[str, Any]]:
    reader = InventoryReader(build_inventory(InputConfig(path=path)))
    return [row.values for row in reader.read(start, stop) if isinstance(row, SourceRow)]
