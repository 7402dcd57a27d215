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
from dataclasses import dataclass
from itertools import chain
from typing import Any

import orjson

MAX_DEPTH = 100
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
_BEYOND_INT64 = 2.0**63
_HARMLESS = {str, bool, type(None)}

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_NOT_FINITE = re.compile(r"NaN|Infinity")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class LineError(Exception):
    """One line that is not a row; ``code`` names the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ParsedLines:
    """One row or error a line. ``columns`` holds the same values by key, when all rows have the same keys."""

    rows: list[dict[str, Any] | LineError]
    columns: dict[str, Sequence[Any]] | None = None


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
    survey = _Survey()
    survey.add_objects([value])
    if survey.has_huge_number and _has_integer_beyond_int64(line):
        raise LineError("integer_out_of_range", "an integer does not fit 64 bits; write it as a string")
    if not _keys_are_unique(line, survey.num_keys):
        raise LineError("duplicate_key", "an object has the same key twice")
    return value


def parse_lines(lines: Sequence[bytes]) -> ParsedLines:
    """Parses each line: as `parse_line`, with errors returned in place."""
    parsed = _parse_together(lines) if lines else ParsedLines([])
    return parsed or ParsedLines([_parse_or_error(line) for line in lines])


def _parse_or_error(line: bytes) -> dict[str, Any] | LineError:
    try:
        return parse_line(line)
    except LineError as error:
        return error


def _parse_together(lines: Sequence[bytes]) -> ParsedLines | None:
    """All lines in one call, or None when at least one may be wrong.

    A line that ends in the middle of a value could otherwise be completed by its neighbour; the separator is
    secret, so that no line can bring the right number of them itself.
    """
    separator = secrets.randbits(62)
    text = b"[" + (b",%d," % separator).join(lines) + b"]"
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    rows = values[::2]
    if len(rows) != len(lines) or set(map(type, rows)) != {dict}:
        return None
    if values[1::2] != [separator] * (len(lines) - 1):
        return None
    survey = _Survey()
    columns = survey.add_objects(rows)
    if survey.has_huge_number or survey.depth > MAX_DEPTH or not _keys_are_unique(text, survey.num_keys):
        return None
    return ParsedLines(rows, columns)


class _Survey:
    """What parsed values tell of their text: how many keys, how deep, and whether a number may be out of range.

    Values are looked at column by column, because a column mostly holds one type.
    """

    def __init__(self) -> None:
        self.num_keys = 0
        self.depth = 0
        self.has_huge_number = False

    def add_objects(self, objects: Sequence[dict[str, Any]], depth: int = 1) -> dict[str, Sequence[Any]] | None:
        """Returns the columns when all objects have the same keys in the same order."""
        self.num_keys += sum(map(len, objects))
        self.depth = max(self.depth, depth)
        keys = set(map(tuple, objects))
        if len(keys) > 1:
            self._add_values(list(chain.from_iterable(map(dict.values, objects))), depth)
            return None
        columns: dict[str, Sequence[Any]] = dict(
            zip(keys.pop(), zip(*map(dict.values, objects), strict=True), strict=True)
        )
        for column in columns.values():
            self._add_values(column, depth)
        return columns

    def _add_values(self, values: Sequence[Any], depth: int) -> None:
        types = set(map(type, values))
        if types <= _HARMLESS or depth > MAX_DEPTH:
            return
        if int in types and max(_of_type(int, values, types)) > INT64_MAX:
            self.has_huge_number = True
        if float in types:
            floats = _of_type(float, values, types)
            self.has_huge_number |= max(floats) >= _BEYOND_INT64 or min(floats) <= -_BEYOND_INT64
        if list in types:
            self.depth = max(self.depth, depth + 1)
            self._add_values(list(chain.from_iterable(_of_type(list, values, types))), depth + 1)
        if dict in types:
            self.add_objects(_of_type(dict, values, types), depth + 1)


def _of_type(kind: type, values: Sequence[Any], types: set[type]) -> Sequence[Any]:
    return values if len(types) == 1 else [value for value in values if type(value) is kind]


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
        text = line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return LineError("invalid_utf8", f"byte {bad.start + 1} of the line is not valid UTF-8")
    found = _NOT_FINITE.match(text, error.pos)
    if found:
        return LineError("invalid_json", f"{found[0]} is no JSON value (char {error.pos}); write null instead")
    return LineError("invalid_json", f"not valid JSON: {error}")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null")
