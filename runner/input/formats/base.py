"""What a reader is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from runner.input.schema import ObservedRows
from runner.types import RowError, SourceRow, Stage

RAW_CHARS = 4096

Tick = Callable[[int, int], None]
"""Called with (rows scanned, bytes read) since the last call."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a file found. ``layout`` (JSON values) is what the reader needs to seek.

    ``schema`` is None when the file declares none: its values were observed instead.
    """

    num_rows: int
    layout: dict[str, Any]
    schema: pa.Schema | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Rows ``[start, stop)`` of one file; ``first_row_id`` is the global id of the file's row 0."""

    path: str
    layout: dict[str, Any]
    start: int
    stop: int
    first_row_id: int


class Format(Protocol):
    """One file format."""

    suffixes: tuple[str, ...]

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        """Counts the rows (at most ``limit``) and learns the schema; raises ConfigError for a broken file."""
        ...

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        """Yields one value a row, in order, in memory that does not depend on the file's size."""
        ...


def read_error(
    row_id: int, code: str, message: str, path: str, line: int | None = None, raw: bytes | None = None
) -> RowError:
    """A row that could not be read."""
    text = None if raw is None else raw[: 4 * RAW_CHARS].decode("utf-8", "backslashreplace")[:RAW_CHARS]
    return RowError(row_id, Stage.READ, code, message, file=path, line=line, raw=text)
