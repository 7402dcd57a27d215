"""Part files: built sorted, written once, read back before they count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from runner.errors import StorageError
from runner.output.commits import Part
from runner.output.disk import Disk

_BATCH_ROWS = 1024
_ZSTD_LEVEL = 3


def build(batches: Sequence[pa.RecordBatch], schema: pa.Schema, key: Sequence[str]) -> pa.Table:
    """All lines, sorted by ``key`` (nulls last), in one chunk a column: the same lines give the same bytes."""
    table = pa.Table.from_batches(batches, schema)
    return table.sort_by([(name, "ascending") for name in key]).combine_chunks()


def serialize(table: pa.Table) -> pa.Buffer:
    """The bytes of an Arrow IPC file: fixed batches, fixed compression, no time stamps."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=_ZSTD_LEVEL), use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for start in range(0, table.num_rows, _BATCH_ROWS):
            writer.write_table(table.slice(start, _BATCH_ROWS), max_chunksize=_BATCH_ROWS)
    return sink.getvalue()


def write_part(disk: Disk, path: Path, table: pa.Table) -> Part:
    """Writes a staged part and reads it back. Content durable on return, the name not yet."""
    data = serialize(table)
    disk.write_synced(path, memoryview(data))
    part = Part(table.num_rows, data.size, hashlib.sha256(data).hexdigest())
    try:
        check_part(disk.read(path), part, table.schema)
    except ValueError as error:
        raise StorageError(f"output.dir: {path}: read back other than written: {error}; check the disk") from error
    return part


def check_part(content: bytes, part: Part, schema: pa.Schema) -> pa.Table:
    """The table in a part file's bytes; raises ValueError when it is not the part that was committed."""
    if len(content) != part.bytes:
        raise ValueError(f"{len(content)} bytes instead of {part.bytes}")
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise ValueError("its SHA-256 is not the committed one")
    table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    if not table.schema.equals(schema):
        raise ValueError("its schema is not the job's")
    if table.num_rows != part.rows:
        raise ValueError(f"{table.num_rows} lines instead of {part.rows}")
    return table
