"""CSV and TSV: a header, then records whose quoted fields may span lines. Every column is text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import pyarrow as pa

from runner.errors import ConfigError
from runner.input import compression
from runner.input.compression import ByteStream
from runner.input.formats.base import Scan, Span, Tick, read_error
from runner.input.formats.marks import Marks, nearest
from runner.input.lines import MAX_LINE_BYTES, RAW_BYTES, TooLong, read_lines
from runner.input.schema import ObservedRows
from runner.types import RowError, SourceRow

MARK_ROWS = 1000
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class DelimitedFormat:
    """Strict quoting as in RFC 4180; a layout holds ``marks`` and the ``header``."""

    def __init__(self, suffix: str, delimiter: str) -> None:
        self.suffixes: tuple[str, ...] = (suffix,)
        self._delimiter = delimiter

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        marks, num_rows, position = Marks(), 0, 0
        with ByteStream(path) as stream:
            records = _Records(stream, self._delimiter)
            header = _header(path, records)
            marks.offer(0, records.offset, records.number)
            fields: list[list[str]] = []
            for record in records:
                num_rows += 1
                fields.append(record.fields)
                if limit is not None and num_rows >= limit:
                    break
                if num_rows % MARK_ROWS == 0:
                    marks.offer(num_rows, records.offset, records.number)
                    _observe_ids(fields, header, observed)
                    fields = []
                    tick(MARK_ROWS, stream.compressed_position - position)
                    position = stream.compressed_position
            _observe_ids(fields, header, observed)
            tick(num_rows % MARK_ROWS, stream.compressed_position - position)
        kept = [] if compression.is_compressed(path) else marks.kept
        return Scan(num_rows, {"marks": kept, "header": header}, pa.schema([(name, pa.string()) for name in header]))

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        header = span.layout["header"]
        row, offset, number = nearest(span.layout["marks"], span.start)
        with ByteStream(span.path, offset) as stream:
            records = _Records(stream, self._delimiter, offset, number)
            if not span.layout["marks"]:
                next(records)
            for record in records:
                if row >= span.stop:
                    return
                if row >= span.start:
                    yield _row(record, header, schema, span, row)
                row += 1


class _Record:
    """One record: its fields, or why it has none; ``number`` is its first line's."""

    def __init__(self, number: int, raw: bytes, fields: list[str], code: str | None = None, message: str = "") -> None:
        self.number = number
        self.raw = raw
        self.fields = fields
        self.code = code
        self.message = message


class _Records:
    """Iterates over records; ``offset`` (bytes) and ``number`` (from 1) say where the next one begins."""

    def __init__(self, stream: ByteStream, delimiter: str, offset: int = 0, number: int = 1) -> None:
        self.offset = offset
        self.number = number
        self._lines = self._feed(stream, offset, number)
        self._taken: list[bytes] = []
        csv.field_size_limit(MAX_LINE_BYTES)
        self._parser = csv.reader(self._lines, delimiter=delimiter, strict=True)

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> _Record:
        while True:
            number, self._taken = self.number, []
            code, message, fields = None, "", []
            try:
                fields = next(self._parser)
            except csv.Error as error:
                code, message = "invalid_csv", f"not a CSV record: {error}"
            if code is None and not fields:
                continue  # a blank line
            raw = b"\n".join(self._taken)[: 4 * RAW_BYTES]
            if any(isinstance(line, TooLong) for line in self._taken):
                code, message = "line_too_long", f"a line must not be over {MAX_LINE_BYTES >> 20} MiB"
            elif any(map(_ESCAPED_BYTE.search, fields)):
                code, message = "invalid_utf8", "a field is not valid UTF-8"
            return _Record(number, raw, fields, code, message)

    def _feed(self, stream: ByteStream, offset: int, number: int) -> Iterator[str]:
        for batch in read_lines(stream, number, offset):
            # Counted from the end, because of a line that was too long only the head is here.
            self.offset = batch.end - sum(len(line) + 1 for line in batch.lines)
            for line in batch.lines:
                self.offset += len(line) + 1
                self.number += 1
                self._taken.append(line)
                yield line.decode("utf-8", "surrogateescape") + "\n"


def _observe_ids(records: list[list[str]], header: list[str], observed: ObservedRows) -> None:
    for name in observed.ids.wanted(header):
        column = header.index(name)
        observed.ids.add(name, [fields[column] for fields in records if len(fields) > column])


def _header(path: str, records: _Records) -> list[str]:
    first = next(records, None)
    if first is None:
        return []
    compression.refuse_packed(path, first.raw, is_text=True)
    if first.code:
        raise ConfigError(f"input.path: the header of {path} cannot be read ({first.message}); correct it")
    repeated = [name for name in first.fields if first.fields.count(name) > 1 or not name]
    if repeated:
        raise ConfigError(f"input.path: the header of {path} has the name {repeated[0]!r} twice or empty; rename it")
    return first.fields


def _row(record: _Record, header: list[str], schema: pa.Schema, span: Span, row: int) -> SourceRow | RowError:
    code, message = record.code, record.message
    if code is None and len(record.fields) != len(header):
        code, message = "wrong_field_count", f"the record has {len(record.fields)} fields, the header {len(header)}"
    row_id = span.first_row_id + row
    if code is not None:
        return read_error(row_id, code, message, span.path, record.number, record.raw)
    values = dict(zip(header, record.fields, strict=True))
    return SourceRow(row_id, {name: values[name] for name in schema.names}, span.path, record.number)
