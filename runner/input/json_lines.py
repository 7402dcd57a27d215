"""Strict JSON for one line or many: orjson's speed, minus what orjson lets through.

orjson already refuses invalid UTF-8, lone surrogates, raw control characters, NaN, Infinity, 1e400 and
trailing garbage. It accepts, and this file refuses: duplicate keys (the last one wins), integers beyond
int64 (they turn into floats), nesting over MAX_DEPTH, and values that are not objects.

Many lines are parsed in one call, joined by a number that no file can know, and checked together; only when
something looks wrong is each line judged by itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson

MAX_DEPTH = 100
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
_FLOAT_OF_INT64_MAX = 2.0**63

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class LineError(Exception):
    """One line that is not a row; ``code`` names the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_line(line: bytes) -> dict[str, Any]:
    """Parses one line; raises LineError with the reason."""
    if _openers(line) > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        raise LineError("too_deep", f"nested more than {MAX_DEPTH} levels deep")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _syntax_error(line, error) from None
    if not isinstance(value, dict):
        raise LineError("not_an_object", f"a row must be a JSON object, not {_kind(value)}")
    num_keys, has_huge_number = _survey([value])
    if has_huge_number and _has_integer_beyond_int64(line):
        raise LineError("integer_out_of_range", "an integer does not fit 64 bits; write it as a string")
    if not _keys_are_unique(line, num_keys):
        raise LineError("duplicate_key", "an object has the same key twice")
    return value


def parse_lines(lines: Sequence[bytes]) -> list[dict[str, Any] | LineError]:
    """Parses each line: as `parse_line`, with errors returned in place."""
    rows = _parse_together(lines)
    return rows if rows is not None else [_parse_or_error(line) for line in lines]


def _parse_or_error(line: bytes) -> dict[str, Any] | LineError:
    try:
        return parse_line(line)
    except LineError as error:
        return error


def _parse_together(lines: Sequence[bytes]) -> list[Any] | None:
    """All lines in one call, or None when at least one may be wrong.

    A line that ends in the middle of a value could otherwise be completed by its neighbour; the separator is
    secret, so that no line can bring the right number of them itself.
    """
    separator = secrets.randbits(62)
    text = b"[" + (b",%d," % separator).join(lines) + b"]"
    if _openers(text) - len(lines) > MAX_DEPTH and any(_openers(line) > MAX_DEPTH for line in lines):
        return None
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    rows = values[::2]
    if len(rows) != len(lines) or set(map(type, rows)) != {dict}:
        return None
    if values[1::2] != [separator] * (len(lines) - 1):
        return None
    num_keys, has_huge_number = _survey(rows)
    if has_huge_number or not _keys_are_unique(text, num_keys):
        return None
    return rows


def _survey(rows: list[dict[str, Any]]) -> tuple[int, bool]:
    """Counts the keys of all objects, and tells whether any number might be outside int64 or infinite."""
    num_keys, objects = sum(map(len, rows)), rows
    values: list[Any] = []
    while objects or values:
        values = list(chain(chain.from_iterable(map(dict.values, objects)), values))
        types = set(map(type, values))
        if int in types and max(v for v in values if type(v) is int) > INT64_MAX:
            return num_keys, True
        if float in types and any(type(v) is float and abs(v) >= _FLOAT_OF_INT64_MAX for v in values):
            return num_keys, True
        objects = [v for v in values if type(v) is dict] if dict in types else []
        values = list(chain.from_iterable(v for v in values if type(v) is list)) if list in types else []
        num_keys += sum(map(len, objects))
    return num_keys, False


def _keys_are_unique(text: bytes, num_keys: int) -> bool:
    """True when no object in ``text`` (valid JSON) repeats a key, given how many keys its parsed objects have.

    Every written key has one colon outside strings. Counting all colons, or all colons in places where a key's
    can stand, gives an upper bound; if even that equals ``num_keys``, no key was lost. Else count exactly.
    """
    if text.count(b":") == num_keys:
        return True
    spaced = text.count(b" :") + text.count(b"\t:") + text.count(b"\r:") + text.count(b"\n:")
    if text.count(b'":') + spaced == num_keys:
        return True
    return _STRING.sub(b"", text).count(b":") == num_keys


def _has_integer_beyond_int64(line: bytes) -> bool:
    """Exact, on the text: the parsed value of such an integer is a float."""
    integers = map(int, _INTEGER.findall(_STRING.sub(b'""', line)))
    return any(not INT64_MIN <= value <= INT64_MAX for value in integers)


def _openers(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def _depth(line: bytes) -> int:
    """The deepest nesting of brackets outside strings."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", line).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _syntax_error(line: bytes, error: orjson.JSONDecodeError) -> LineError:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return LineError("invalid_utf8", f"byte {bad.start + 1} of the line is not valid UTF-8")
    return LineError("invalid_json", f"not valid JSON: {error}")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null")
