"""Rows of an Arrow batch as Python values of the frozen schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from runner.input.formats.base import read_error
from runner.types import RowError, SourceRow


def rows_of(batch: pa.RecordBatch, schema: pa.Schema, first_row_id: int, path: str) -> Iterator[SourceRow | RowError]:
    """Yields one value a row; a row with a string that is not UTF-8 becomes an error."""
    batch = pa.RecordBatch.from_arrays([_plain(batch.column(f.name), f.type) for f in schema], schema=schema)
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError:
        yield from _one_by_one(batch, first_row_id, path)
        return
    names = schema.names
    for row_id, values in enumerate(zip(*columns, strict=True), first_row_id):
        yield SourceRow(row_id, dict(zip(names, values, strict=True)), path)


def _one_by_one(batch: pa.RecordBatch, first_row_id: int, path: str) -> Iterator[SourceRow | RowError]:
    for i in range(batch.num_rows):
        values: dict[str, Any] = {}
        try:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                values[name] = column[i].as_py()
        except UnicodeDecodeError:
            yield read_error(first_row_id + i, "invalid_utf8", f"column {name!r} holds text that is not UTF-8", path)
        else:
            yield SourceRow(first_row_id + i, values, path)


def _plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array in its plain type (see `schema.plain_type`)."""
    if array.type.equals(kind):
        return array
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage, kind)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode(), kind)
    if pa.types.is_map(array.type):
        return _plain_map(array, kind)
    if pa.types.is_struct(array.type):
        children = [_plain(child, field.type) for child, field in zip(array.flatten(), kind, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    return array.cast(kind)


def _plain_map(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """A map as a list of {key, value}."""
    entries = [None if v is None else [{"key": key, "value": item} for key, item in v] for v in array.to_pylist()]
    return pa.array(entries, kind)


def id_values(array: pa.Array) -> list[Any]:
    """The values of an id column; none where it holds text that is not UTF-8, which reading will report."""
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        return []
