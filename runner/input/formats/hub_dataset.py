"""A dataset by its name on the hub, or a local folder of data files, streamed through `datasets`.

The address is ``dataset:NAME``, with ``?split=``, ``subset=`` and ``revision=`` where wanted. Rows come in the
order of the dataset's files; nothing is shuffled, and media stay the bytes that they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa

from runner.errors import ConfigError, StorageError
from runner.input.arrow_rows import rows_of
from runner.input.formats.base import Scan, Span, Tick
from runner.input.schema import ObservedRows, plain_schema
from runner.types import RowError, SourceRow

PREFIX = "dataset:"
BATCH_ROWS = 1024
_OPTIONS = ("split", "subset", "revision")


@dataclass(frozen=True, slots=True)
class Address:
    """What follows ``dataset:``."""

    name: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """The local folder that it names, if it names one."""
        path = Path(self.name).expanduser()
        return path.absolute() if path.is_dir() else None


def parse_address(text: str) -> Address:
    """Raises ConfigError for an option that there is not."""
    name, _, query = text.removeprefix(PREFIX).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown or not name:
        what = f"has the option {unknown[0]!r}" if unknown else "names no dataset"
        raise ConfigError(
            f"input.path={text!r} {what}; write dataset:NAME?split=train, or one of {', '.join(_OPTIONS)}"
        )
    return Address(name, **options)


class DatasetFormat:
    """A layout holds the hub's ``revision`` that was scanned, None for a folder. To seek is to skip."""

    suffixes: tuple[str, ...] = ()

    def scan(self, path: str, limit: int | None, observed: ObservedRows, tick: Tick) -> Scan:
        num_rows, schema = 0, None
        revision = None if parse_address(path).folder else fingerprint_of(path)[1]
        with _one_line(path):
            for table in _tables(_open(path, revision)):
                schema = schema or plain_schema(table.schema, path)
                num_rows += table.num_rows
                tick(table.num_rows, 0)
                if limit is not None and num_rows >= limit:
                    break
        num_rows = num_rows if limit is None else min(num_rows, limit)
        return Scan(num_rows, {"revision": revision}, schema or pa.schema([]))

    def read(self, span: Span, schema: pa.Schema) -> Iterator[SourceRow | RowError]:
        row = span.start
        with _read_on(span.path):
            tables = _tables(_open(span.path, span.layout.get("revision")).skip(span.start))
        while row < span.stop:
            with _read_on(span.path):
                table = next(tables, None)
            if table is None:
                raise ConfigError(f"input.path: {span.path} ends at row {row}; it was longer when the job was created")
            for batch in table.slice(0, span.stop - row).combine_chunks().to_batches():
                yield from rows_of(batch, schema, span.first_row_id + row, span.path)
                row += batch.num_rows


def fingerprint_of(path: str) -> tuple[int, str]:
    """(bytes where known, a hash that changes with the data): of the files of a folder, or the hub's revision."""
    address = parse_address(path)
    if address.folder is None:
        from huggingface_hub import HfApi

        with _one_line(path):
            return 0, str(HfApi().dataset_info(address.name, revision=address.revision).sha)
    files = sorted(file for file in address.folder.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(address.folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sum(size for _, size, _ in stats), hashlib.sha256(repr(stats).encode()).hexdigest()


def _open(path: str, revision: str | None) -> Any:
    """The dataset as a stream: what the hub had when it was scanned, not what it may have got since."""
    from datasets import load_dataset

    address = parse_address(path)
    return load_dataset(
        str(address.folder or address.name),
        address.subset,
        split=address.split or "train",
        revision=revision,
        streaming=True,
    )


def _tables(stream: Any) -> Iterator[pa.Table]:
    return iter(stream.with_format("arrow").iter(batch_size=BATCH_ROWS))


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """`datasets` raises errors of many libraries; the user gets one line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"input.path={path} cannot be streamed ({_reason(error)}); check its name and the network, "
            "or give a local folder"
        ) from error


@contextmanager
def _read_on(path: str) -> Iterator[None]:
    """The same once it has been read to its end: then its name is right, and a restart may find it well again."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise StorageError(
            f"input.path: {path} cannot be read on ({_reason(error)}); run again once it can be"
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
