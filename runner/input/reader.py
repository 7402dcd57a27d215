"""Reads any range of rows of an inventory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import pyarrow as pa

from runner.errors import StorageError
from runner.input.formats import FORMATS
from runner.input.formats.base import Span
from runner.input.inventory import FileEntry, Inventory
from runner.types import RowError, SourceRow


def _read(file: FileEntry, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
    try:
        yield from FORMATS[file.format].read(span, schema)
    except OSError as error:
        raise StorageError(
            f"input.path: {file.path}: {error.strerror or error}; run again once it can be read"
        ) from error


class InventoryReader:
    """Reads rows of the recorded files, wherever they lie."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._first_ids = inventory.first_row_ids()

    def read(self, start: int, stop: int) -> Iterator[SourceRow | RowError]:
        """Yields rows ``[start, stop)`` by global id; ``stop`` is cut to the number of rows."""
        stop = min(stop, self._inventory.num_rows)
        index = bisect_right(self._first_ids, start) - 1
        while start < stop:
            first, end = self._first_ids[index], self._first_ids[index + 1]
            file = self._inventory.files[index]
            if start < end:
                span = Span(file.path, file.layout, start - first, min(stop, end) - first, first)
                yield from _read(file, span, self._inventory.schema)
            start, index = max(start, end), index + 1
