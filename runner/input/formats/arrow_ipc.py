"""Arrow IPC, file and stream: a run's output is the next run's input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, islice, pairwise

import pyarrow as pa

from runner.errors import ConfigError
from runner.input import compression
from runner.input.arrow_rows import id_values, rows_of
from runner.input.formats.base import Scan, Span, Tick
from runner.input.schema import ObservedRows, plain_schema
from runner.input.storage import is_remote, open_binary, size_of
from runner.types import RowError, SourceRow

BATCH_ROWS = 1024
_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class ArrowFormat:
    """A layout holds ``batches``: the number of rows in each. In a stream the ones before are read past."""

    suffixes: tuple[str, ...] = (".arrow", ".arrows", ".ipc", ".feather")

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        _refuse_cut_or_packed(path)
        batches: list[int] = []
        with _faults(path), _source(path) as source:
            schema, stream = _open(source)
            for batch in stream:
                left = None if limit is None else limit - sum(batches)
                for name in observed.ids.wanted(batch.schema.names):
                    observed.ids.add(name, id_values(batch.column(name).slice(0, left)))
                batches.append(batch.num_rows)
                tick(batch.num_rows, batch.nbytes)
                if limit is not None and sum(batches) >= limit:
                    break
        num_rows = sum(batches) if limit is None else min(limit, sum(batches))
        return Scan(num_rows, {"batches": batches}, plain_schema(schema, path))

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        bounds = list(pairwise(accumulate(span.layout["batches"], initial=0)))
        first_batch = next(i for i, (_, end) in enumerate(bounds) if end > span.start)
        with _faults(span.path), _source(span.path) as source:
            _, stream = _open(source, first_batch)
            for (first, end), batch in zip(bounds[first_batch:], stream, strict=False):
                if first >= span.stop:
                    return
                _check(batch)
                start, stop = max(span.start - first, 0), min(span.stop, end) - first
                for at in range(start, stop, BATCH_ROWS):
                    piece = batch.slice(at, min(BATCH_ROWS, stop - at))
                    yield from rows_of(piece, schema, span.first_row_id + first + at, span.path)


def _open(source: pa.NativeFile, first_batch: int = 0) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema, and the batches from ``first_batch`` on."""
    is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    if is_file:
        reader = pa.ipc.open_file(source)
        return reader.schema, (reader.get_batch(i) for i in range(first_batch, reader.num_record_batches))
    stream = pa.ipc.open_stream(source)
    return stream.schema, islice(stream, first_batch, None)


def _source(path: str) -> pa.NativeFile:
    return pa.PythonFile(open_binary(path), mode="r") if is_remote(path) else pa.memory_map(path)


def _refuse_cut_or_packed(path: str) -> None:
    """A stream that was cut between two batches reads cleanly, but short: only its end mark tells."""
    with open_binary(path) as file:
        head = file.read(compression.HEAD_BYTES)
        if head.startswith(_FILE_MAGIC):
            return
        compression.refuse_packed(path, head, is_text=False)
        file.seek(-min(len(_STREAM_END), size_of(path)), 2)
        if file.read() != _STREAM_END:
            raise ConfigError(f"input.path: {path} is not a whole Arrow file or stream; replace it")


def _check(batch: pa.RecordBatch) -> None:
    """A damaged batch could crash the process when it is used; text that is not UTF-8 is handled row by row."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise


@contextmanager
def _faults(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"input.path: {path} is not a whole Arrow file or stream ({reason}); replace it") from None
