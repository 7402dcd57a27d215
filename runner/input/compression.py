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

_BEGINNINGS: dict[bytes, tuple[str, str]] = {
    b"\x1f\x8b\x08": ("gzip", ".gz"),
    b"BZh91AY&SY": ("bzip2", ".bz2"),  # as it compresses unless told otherwise; less could begin a text
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
}
"""How compressed files begin: the program that packs and unpacks them, and the suffix that they are known by."""

HEAD_BYTES = max(map(len, _BEGINNINGS))


def is_compressed(path: str) -> bool:
    return Path(path).suffix in _OPENERS


def refuse_packed(path: str, head: bytes, *, is_text: bool) -> None:
    """Raises ConfigError when ``head``, the first HEAD_BYTES or more as a reader sees them, are a compressed file's.

    One that reads text unpacks by the suffix; the other formats are read as they are.
    """
    for beginning, (program, suffix) in _BEGINNINGS.items():
        if head.startswith(beginning):
            name = Path(path).name
            can_rename = is_text and not is_compressed(path)
            fix = f"rename it to {name}{suffix}" if can_rename else f"unpack it: {program} -dc < {name} > FILE"
            raise ConfigError(f"input.path: {path} looks {program}-compressed; {fix}")


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
