"""JSON lines, plain or compressed: every line that is not blank is a row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError
from runner.input import compression
from runner.input.compression import ByteStream
from runner.input.formats.base import Scan, Span, Tick, read_error
from runner.input.formats.marks import Marks, nearest
from runner.input.json_lines import LineError, ParsedLines, parse_lines
from runner.input.lines import MAX_LINE_BYTES, LineBatch, TooLong, read_lines
from runner.input.schema import ObservedRows
from runner.input.strict import RowCheck
from runner.types import RowError, SourceRow

log = logging.getLogger(__name__)

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Rows:
    """The lines that are rows, with their physical numbers, from 1."""

    numbers: Sequence[int]
    lines: Sequence[bytes]

    def __getitem__(self, which: slice) -> Rows:
        return Rows(self.numbers[which], self.lines[which])

    def __len__(self) -> int:
        return len(self.lines)


class JsonlFormat:
    """A layout holds ``marks``: [row, offset, line number] of places to seek to, none in a compressed file."""

    suffixes: tuple[str, ...] = (".jsonl", ".ndjson", ".json")

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        marks = Marks()
        num_rows = 0
        with ByteStream(path) as stream:
            position = 0
            for batch in read_lines(stream):
                marks.offer(num_rows, batch.offset, batch.number)
                rows = _rows_of(batch)[: None if limit is None else limit - num_rows]
                if rows and not num_rows:
                    _refuse_other_text(path, rows.lines[0])
                _observe(rows.lines, observed)
                num_rows += len(rows)
                tick(len(rows), stream.compressed_position - position)
                position = stream.compressed_position
                if limit is not None and num_rows >= limit:
                    break
        return Scan(num_rows, {"marks": [] if compression.is_compressed(path) else marks.kept})

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        check = RowCheck(schema)
        row, offset, number = nearest(span.layout["marks"], span.start)
        if span.start and compression.is_compressed(span.path):
            log.info("%s is compressed and cannot be sought: reading past %d rows", span.path, span.start)
        with ByteStream(span.path, offset) as stream:
            for batch in read_lines(stream, number, offset):
                rows = _rows_of(batch)
                wanted = rows[max(0, span.start - row) : max(0, span.stop - row)]
                first = span.first_row_id + max(row, span.start)
                row += len(rows)
                yield from _convert(wanted, first, span.path, check)
                if row >= span.stop:
                    return
        raise ConfigError(f"input.path: {span.path} ends at row {row}; it was longer when the job was created")


def _rows_of(batch: LineBatch) -> Rows:
    numbers = range(batch.number, batch.number + len(batch.lines))
    if b"" not in batch.lines and not any(map(bytes.isspace, batch.lines)):
        return Rows(numbers, batch.lines)
    kept = [(n, line) for n, line in zip(numbers, batch.lines, strict=True) if _is_row(line)]
    return Rows([n for n, _ in kept], [line for _, line in kept])


def _is_row(line: bytes) -> bool:
    """Every line that is not blank, and one that was too long to tell."""
    return isinstance(line, TooLong) or (line != b"" and not line.isspace())


def _parse(lines: Sequence[bytes]) -> ParsedLines:
    if TooLong not in set(map(type, lines)):
        return parse_lines(lines)
    too_long = LineError("line_too_long", f"a line must not be over {MAX_LINE_BYTES >> 20} MiB")
    return ParsedLines([too_long if isinstance(line, TooLong) else parse_lines([line]).rows[0] for line in lines])


def _observe(lines: Sequence[bytes], observed: ObservedRows) -> None:
    parsed = _parse(lines)
    if parsed.columns is not None:
        observed.add_columns(parsed.columns)
    else:
        observed.add_objects([value for value in parsed.rows if not isinstance(value, LineError)])


def _convert(rows: Rows, first: int, path: str, check: RowCheck) -> Iterator[SourceRow | RowError]:
    parsed = check.only_known(_parse(rows.lines))
    columns = parsed.columns
    if columns is not None and check.is_complete(columns) and not check.fit_columns(columns):
        return map(SourceRow, count(first), parsed.rows, repeat(path), rows.numbers)  # type: ignore[arg-type]
    return _convert_each(rows, parsed.rows, first, path, check)


def _convert_each(
    rows: Rows, values: list[dict[str, Any] | LineError], first: int, path: str, check: RowCheck
) -> Iterator[SourceRow | RowError]:
    all_fit = check.fit([value for value in values if not isinstance(value, LineError)]) is None
    for row_id, number, line, value in zip(count(first), rows.numbers, rows.lines, values):
        if isinstance(value, LineError):
            yield read_error(row_id, value.code, str(value), path, number, line)
            continue
        problem = None if all_fit else check.fit([value])
        if problem:
            yield read_error(row_id, "schema_mismatch", problem, path, number, line)
        else:
            yield SourceRow(row_id, check.complete(value), path, number)


def _refuse_other_text(path: str, first_row: bytes) -> None:
    compression.refuse_packed(path, first_row, is_text=True)
    if first_row.startswith(_UTF16):
        raise ConfigError(f"input.path: {path} is UTF-16; convert it to UTF-8")
    if first_row.strip() == b"[" or (first_row.lstrip().startswith(b"[") and _is_plain_json(path)):
        raise ConfigError(
            f"input.path: {path} is one JSON array, not an object a line; "
            f"make JSONL of it: jq -c '.[]' {Path(path).name} > {Path(path).stem}.jsonl"
        )


def _is_plain_json(path: str) -> bool:
    """A name that promises one JSON value; in a .jsonl file a first line that is an array is one bad row."""
    name = Path(path)
    return (Path(name.stem) if compression.is_compressed(path) else name).suffix == ".json"
