"""Foreign text for a terminal: what could move the cursor, change colours or reorder a line is shown, not sent."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_KEPT = "\n\t"
_UNSAFE = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji
_ASCII_SAFE = re.compile(r"[\n\t\x20-\x7e]*")


def plain(text: str, limit: int | None = None) -> str:
    """``text`` with every control and direction mark spelled out, as \\x1b; cut after ``limit`` characters."""
    rest = 0 if limit is None else max(len(text) - limit, 0)
    kept = text if not rest else text[:limit]
    if not _ASCII_SAFE.fullmatch(kept):
        kept = "".join(_spelled(char) for char in kept)
    return f"{kept}[... {rest:,} more characters]" if rest else kept


def one_line(text: str, limit: int = 80) -> str:
    """As `plain`, with line ends spelled out too."""
    return plain(text, limit).replace("\n", "\\n").replace("\t", "\\t")


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Lines with columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join((indent + line).rstrip() for line in lines)


def _spelled(char: str) -> str:
    if char in _KEPT or char in _JOINERS or unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
