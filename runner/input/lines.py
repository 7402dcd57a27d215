"""Physical lines of a text file, in batches, with flat memory whatever the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.errors import ConfigError
from runner.input.compression import ByteStream

BLOCK_BYTES = 64 * 1024  # more rows at once only feed the garbage collector
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_BLANK_BYTES = 16 * 1024 * 1024  # lines without a row; a small compressed file may hold terabytes of them
RAW_BYTES = 4096
_BOM = b"\xef\xbb\xbf"


class TooLong(bytes):
    """The first RAW_BYTES of a line over MAX_LINE_BYTES; the rest was read past."""


@dataclass(frozen=True, slots=True)
class LineBatch:
    """Consecutive lines without their ``\\n``, at bytes ``[offset, end)``; ``number`` is the first one's, from 1.

    Only the first line can be a `TooLong`.
    """

    number: int
    offset: int
    end: int
    lines: list[bytes]


class _Tail:
    """The line that the last block left unfinished; ``is_blank`` while there is nothing in it but blanks."""

    def __init__(self) -> None:
        self.size = 0
        self.is_blank = True
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        was_short = self.size <= MAX_LINE_BYTES
        self.size += len(piece)
        self.is_blank = self.is_blank and (not piece or piece.isspace())
        if was_short:
            self._pieces.append(piece)
            if self.size > MAX_LINE_BYTES:
                self._pieces = [b"".join(self._pieces)[:RAW_BYTES]]

    def take(self) -> bytes:
        line = b"".join(self._pieces) if self.size <= MAX_LINE_BYTES else TooLong(self._pieces[0])
        self.size, self.is_blank, self._pieces = 0, True, []
        return line


def read_lines(stream: ByteStream, number: int = 1, offset: int = 0) -> Iterator[LineBatch]:
    """Splits at ``\\n`` bytes only, so that U+2028 and the like stay inside strings. A BOM at offset 0 is skipped.

    ``number`` and ``offset`` say where the stream stands. Raises ConfigError at MAX_BLANK_BYTES of blank lines on end.
    """
    tail, blank_bytes = _Tail(), 0
    block = stream.read(BLOCK_BYTES)
    while block and len(block) < len(_BOM) and (more := stream.read(BLOCK_BYTES)):
        block += more  # a stream may give less than was asked for
    if offset == 0 and block.startswith(_BOM):
        block, offset = block[len(_BOM) :] or stream.read(BLOCK_BYTES), len(_BOM)
    while block:
        if not (tail.is_blank and block.isspace()):
            blank_bytes = 0
        elif b"\n" in block:
            blank_bytes += len(block)
        if blank_bytes > MAX_BLANK_BYTES:
            raise ConfigError(
                f"input.path: {stream.path} has over {MAX_BLANK_BYTES >> 20} MiB of blank lines on end "
                f"about line {number}; remove them"
            )
        lines = block.split(b"\n")
        tail.add(lines[0])
        if len(lines) > 1:
            line_bytes = tail.size + len(block) - len(lines[0]) - len(lines[-1])
            lines[0] = tail.take()
            tail.add(lines.pop())
            yield LineBatch(number, offset, offset + line_bytes, lines)
            number, offset = number + len(lines), offset + line_bytes
        block = stream.read(BLOCK_BYTES)
    if tail.size:
        yield LineBatch(number, offset, offset + tail.size, [tail.take()])
