"""Row results as Arrow: the batch that a journal holds, and what it means for one range of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from runner.output.columns import Columns
from runner.output.convert import Misfit, to_batch
from runner.output.messages import packed
from runner.types import RowError, RowResult, Stage


@dataclass(frozen=True)
class Entries:
    """Finished rows of one range: one entry of ``row_ids`` a row, the records of all of them flat."""

    row_ids: list[int]
    dropped: int
    data: pa.RecordBatch
    errors: pa.RecordBatch


def entry_schema(columns: Columns) -> pa.Schema:
    """One line a row: its id, its range's generation, the number of samples dropped, its records and its errors."""
    return pa.schema(
        [
            pa.field("row_id", pa.int64()),
            pa.field("generation", pa.int64()),
            pa.field("dropped", pa.int64()),
            pa.field("records", pa.list_(pa.struct(list(columns.data)))),
            pa.field("errors", pa.list_(pa.struct(list(columns.errors)))),
        ]
    )


def encode(
    results: Sequence[RowResult], columns: Columns, generation_of: Callable[[int], int] = lambda _: 1
) -> pa.RecordBatch:
    """A batch of `entry_schema`, sorted by row. A record that does not fit the schema becomes an error of its row.

    ``generation_of`` gives, by row, the generation of the parts that its result goes into.
    """
    results = _with_packed_messages(results, columns)
    try:
        return _encode(results, columns, generation_of)
    except Misfit:
        return _encode([_fitting(result, columns) for result in results], columns, generation_of)


def _with_packed_messages(results: Sequence[RowResult], columns: Columns) -> Sequence[RowResult]:
    name = columns.names.get("messages")
    if name is None:
        return results
    kind = columns.data.field(name).type
    return [
        replace(result, records=[{**record, name: packed(record.get(name), kind)} for record in result.records])
        for result in results
    ]


def _encode(results: Sequence[RowResult], columns: Columns, generation_of: Callable[[int], int]) -> pa.RecordBatch:
    results = sorted(results, key=lambda result: result.row_id)
    records = [record for result in results for record in result.records]
    errors = [error_record(error, columns) for result in results for error in result.errors]
    arrays = [
        pa.array([result.row_id for result in results], pa.int64()),
        pa.array([generation_of(result.row_id) for result in results], pa.int64()),
        pa.array([result.dropped for result in results], pa.int64()),
        _lists([len(result.records) for result in results], to_batch(records, columns.data)),
        _lists([len(result.errors) for result in results], to_batch(errors, columns.errors)),
    ]
    return pa.record_batch(arrays, schema=entry_schema(columns))


def _lists(lengths: Iterable[int], batch: pa.RecordBatch) -> pa.Array:
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    structs = pa.StructArray.from_arrays(batch.columns, fields=list(batch.schema))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def decode(batch: pa.RecordBatch, columns: Columns, rows_per_shard: int) -> dict[int, Entries]:
    """The entries of a batch that `encode` made, by range."""
    row_ids: list[int] = batch.column(0).to_pylist()
    found: dict[int, Entries] = {}
    start = 0
    while start < len(row_ids):
        index = row_ids[start] // rows_per_shard
        stop = start + 1
        while stop < len(row_ids) and row_ids[stop] // rows_per_shard == index:
            stop += 1
        part = batch.slice(start, stop - start)
        found[index] = Entries(
            row_ids=row_ids[start:stop],
            dropped=sum(part.column(2).to_pylist()),
            data=_flat(part.column(3), columns.data),
            errors=_flat(part.column(4), columns.errors),
        )
        start = stop
    return found


def select(entries: pa.RecordBatch, wanted: Sequence[bool]) -> pa.RecordBatch:
    """The lines of a batch that are wanted; the batch itself when all are."""
    return entries if all(wanted) else entries.filter(pa.array(wanted, pa.bool_()))


def _flat(lists: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(lists.flatten().flatten(), schema=schema)


def error_record(error: RowError, columns: Columns) -> dict[str, Any]:
    """One line of errors/: the source columns where they are known, then ours."""
    own = {
        "row_id": error.row_id,
        "request_index": error.request_index,
        "sample_index": error.sample_index,
        "num_samples": error.num_samples,
        "file": error.file,
        "line": error.line,
        "stage": error.stage.value,
        "code": error.code,
        "message": error.message,
        "raw": error.raw,
    }
    return {**(error.source or {}), **{columns.error_names[name]: value for name, value in own.items()}}


def _fitting(result: RowResult, columns: Columns) -> RowResult:
    """The same result with each record and error that the schema cannot hold put in words instead."""
    records, errors = [], [_fitting_error(error, columns) for error in result.errors]
    for record in result.records:
        try:
            to_batch([record], columns.data)
            records.append(record)
        except Misfit as misfit:
            errors.append(_fitting_error(_misfit_error(result, record, misfit, columns), columns))
    return replace(result, records=records, errors=errors)


def _misfit_error(result: RowResult, record: Mapping[str, Any], misfit: Misfit, columns: Columns) -> RowError:
    row = result.row
    return RowError(
        row_id=result.row_id,
        stage=Stage.PARSE,
        code="schema",
        message=str(misfit),
        raw=repr(record),
        file=None if row is None else row.file,
        line=None if row is None else row.line,
        source={name: record[name] for name in columns.source if name in record},
        request_index=record.get(columns.names["request_index"]),
        sample_index=record.get(columns.names["sample_index"]),
    )


def _fitting_error(error: RowError, columns: Columns) -> RowError:
    try:
        to_batch([error_record(error, columns)], columns.errors)
    except Misfit:
        return replace(
            error,
            source=None,
            raw=_encodable(error.raw if error.raw is not None else repr(error.source)),
            file=None if error.file is None else _encodable(error.file),
            message=_encodable(error.message),
            code=_encodable(error.code),
        )
    return error


def _encodable(text: str) -> str:
    """Lone surrogates, which no Arrow string can hold, as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
