"""JSON lines, plain or compressed: every line that is not blank is a row."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError
from runner.input import compression
from runner.input.compression import ByteStream
from runner.input.formats.base import Scan, Span, Tick, read_error
from runner.input.json_lines import LineError, parse_lines
from runner.input.lines import MAX_LINE_BYTES, LineBatch, TooLong, read_lines
from runner.input.schema import Observed
from runner.input.strict import RowCheck
from runner.types import RowError, SourceRow

log = logging.getLogger(__name__)

MAX_MARKS = 4096
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

Numbered = tuple[int, bytes]
"""A row's physical line number, from 1, and its text."""


class JsonlFormat:
    """A layout holds ``marks``: [row, offset, line number] of places to seek to, none in a compressed file."""

    suffixes: tuple[str, ...] = (".jsonl", ".ndjson", ".json")

    def scan(self, path: str, limit: int | None, observed: Observed, tick: Tick) -> Scan:
        marks = _Marks()
        num_rows = 0
        with ByteStream(path) as stream:
            position = 0
            for batch in read_lines(stream):
                if batch.number == 1:
                    _refuse_other_text(path, batch.lines[0])
                marks.offer(num_rows, batch)
                rows = list(islice(_rows_of(batch), None if limit is None else limit - num_rows))
                _observe(rows, observed)
                num_rows += len(rows)
                tick(len(rows), stream.compressed_position - position)
                position = stream.compressed_position
                if limit is not None and num_rows >= limit:
                    break
        return Scan(num_rows, {"marks": [] if compression.is_compressed(path) else marks.kept})

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        check = RowCheck(schema)
        row, offset, number = _nearest(span.layout["marks"], span.start)
        if span.start and compression.is_compressed(span.path):
            log.info("%s is compressed and cannot be sought: reading past %d rows", span.path, span.start)
        with ByteStream(span.path, offset) as stream:
            for batch in read_lines(stream, number, offset):
                rows = list(_rows_of(batch))
                wanted = rows[max(0, span.start - row) : max(0, span.stop - row)]
                first = span.first_row_id + max(row, span.start)
                row += len(rows)
                del rows
                yield from _convert(wanted, first, span.path, check)
                if row >= span.stop:
                    return
        raise ConfigError(f"input.path: {span.path} ends at row {row}; it was longer when the job was created")


class _Marks:
    """Places to seek to, evenly spread; their number stays bounded by dropping every other one."""

    def __init__(self) -> None:
        self.kept: list[list[int]] = []
        self._step = 1
        self._offered = 0

    def offer(self, row: int, batch: LineBatch) -> None:
        if self._offered % self._step == 0:
            self.kept.append([row, batch.offset, batch.number])
        self._offered += 1
        if len(self.kept) > MAX_MARKS:
            self.kept = self.kept[::2]
            self._step *= 2


def _nearest(marks: list[list[int]], start: int) -> tuple[int, int, int]:
    """The last mark at or before row ``start``."""
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if marks[middle][0] <= start else (low, middle)
    row, offset, number = marks[low - 1] if low else (0, 0, 1)
    return row, offset, number


def _rows_of(batch: LineBatch) -> Iterator[Numbered]:
    numbered = enumerate(batch.lines, batch.number)
    if b"" in batch.lines or any(map(bytes.isspace, batch.lines)):
        return ((number, line) for number, line in numbered if line and not line.isspace())
    return numbered


def _parse(rows: list[Numbered]) -> list[dict[str, Any] | LineError]:
    if not any(isinstance(line, TooLong) for _, line in rows):
        return parse_lines([line for _, line in rows]) if rows else []
    too_long = LineError("line_too_long", f"a line must not be over {MAX_LINE_BYTES >> 20} MiB")
    return [too_long if isinstance(line, TooLong) else parse_lines([line])[0] for _, line in rows]


def _observe(rows: list[Numbered], observed: Observed) -> None:
    observed.add_objects([value for value in _parse(rows) if not isinstance(value, LineError)])


def _convert(rows: list[Numbered], first: int, path: str, check: RowCheck) -> Iterator[SourceRow | RowError]:
    values = _parse(rows)
    good = [value for value in values if not isinstance(value, LineError)]
    all_fit = check.fit(good) is None
    for row_id, (number, line), value in zip(range(first, first + len(rows)), rows, values, strict=True):
        if isinstance(value, LineError):
            yield read_error(row_id, value.code, str(value), path, number, line)
            continue
        problem = None if all_fit else check.fit([value])
        if problem:
            yield read_error(row_id, "schema_mismatch", problem, path, number, line)
        else:
            yield SourceRow(row_id, check.complete(value))


def _refuse_other_text(path: str, first_line: bytes) -> None:
    if first_line.startswith(_UTF16):
        raise ConfigError(f"input.path: {path} is UTF-16; convert it to UTF-8")
    if first_line.strip() == b"[":
        raise ConfigError(f"input.path: {path} is one JSON array; write one object a line (jq -c '.[]')")
