"""Parquet: row groups are the places to seek to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.errors import ConfigError
from runner.input import compression
from runner.input.arrow_rows import id_values, rows_of
from runner.input.formats.base import Scan, Span, Tick
from runner.input.schema import ObservedRows, is_projected, plain_schema
from runner.input.storage import is_remote, open_binary
from runner.types import RowError, SourceRow

BATCH_ROWS = 1024


class ParquetFormat:
    """A layout holds ``row_groups``: the number of rows in each."""

    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        with _open(path) as file:
            metadata = file.metadata
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            schema = plain_schema(file.schema_arrow, path)
            _observe_ids(file, path, schema.names, limit, observed)
        num_rows = sum(groups) if limit is None else min(limit, sum(groups))
        tick(num_rows, 0)
        return Scan(num_rows, {"row_groups": groups}, schema)

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        bounds = pairwise(accumulate(span.layout["row_groups"], initial=0))
        with _open(span.path) as file:
            for group, (first, end) in enumerate(bounds):
                if first >= span.stop:
                    return
                if end > span.start:
                    yield from _read_group(file, group, first, span, schema)


def _open(path: str) -> Any:
    try:
        return pq.ParquetFile(open_binary(path) if is_remote(path) else path)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        with open_binary(path) as file:
            compression.refuse_packed(path, file.read(compression.HEAD_BYTES), is_text=False)
        raise ConfigError(f"input.path: {path} is not a whole Parquet file ({_line(error)}); replace it") from None


def _observe_ids(file: Any, path: str, names: list[str], limit: int | None, observed: ObservedRows) -> None:
    """Reads the id columns alone, and no more of them than is wanted."""
    for name in observed.ids.wanted(names):
        left = limit
        for batch in _batches(file, path, f"column {name!r}", columns=[name]):
            ids = batch.column(0).slice(0, left)
            observed.ids.add(name, id_values(ids))
            left = None if left is None else left - len(ids)
            if left == 0 or not observed.ids.wanted([name]):
                break


def _read_group(file: Any, group: int, first: int, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
    row = first
    columns = schema.names if is_projected(schema) else None
    for batch in _batches(file, span.path, f"row group {group}", row_groups=[group], columns=columns):
        start, stop = max(span.start - row, 0), min(span.stop - row, batch.num_rows)
        if start < stop:
            wanted = batch.slice(start, stop - start)
            yield from rows_of(wanted, schema, span.first_row_id + row + start, span.path)
        row += batch.num_rows


def _batches(file: Any, path: str, place: str, **chosen: Any) -> Iterator[pa.RecordBatch]:
    """What is ``chosen`` of the file; raises ConfigError, naming the ``place``, where it is corrupt."""
    batches = file.iter_batches(batch_size=BATCH_ROWS, use_threads=False, **chosen)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise ConfigError(f"input.path: {path} is corrupt in {place} ({_line(error)}); replace the file") from None
        if batch is None:
            return
        yield batch


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
