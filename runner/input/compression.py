"""Byte streams of plain and compressed text files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from runner.errors import ConfigError
from runner.input.storage import open_binary

BOMB_BYTES = 1 << 30
BOMB_RATIO = 500


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


def _open_zstd(file: BinaryIO) -> _Readable:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_OPENERS: dict[str, Callable[[BinaryIO], _Readable]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}
SUFFIXES = tuple(_OPENERS)


def is_compressed(path: str) -> bool:
    return Path(path).suffix in _OPENERS


class ByteStream:
    """Reads a file forward, decompressing by its suffix; ``compressed_position`` is for progress.

    Raises ConfigError when the compressed data is broken, or unpacks to over ``BOMB_BYTES`` and over
    ``BOMB_RATIO`` times its size.
    """

    def __init__(self, path: str, offset: int = 0) -> None:
        self.path = path
        self._file = open_binary(path)
        opener = _OPENERS.get(Path(path).suffix)
        self._stream: _Readable = opener(self._file) if opener else self._file
        self._compressed = opener is not None
        self._unpacked = 0
        if offset:
            self._file.seek(offset)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def compressed_position(self) -> int:
        """Bytes of the file read so far."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if not self._compressed:
            return self._file.read(size)
        try:
            block = self._stream.read(size)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise ConfigError(f"input.path: {self.path} is not a whole compressed file ({error}); replace it") from None
        self._unpacked += len(block)
        if self._unpacked > BOMB_BYTES and self._unpacked > BOMB_RATIO * self._file.tell():
            raise ConfigError(
                f"input.path: {self.path} unpacks to over {BOMB_RATIO} times its size; "
                f"if it is right, unpack it yourself and give the plain file"
            )
        return block
