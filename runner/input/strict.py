"""Does a JSON value fit a column of the frozen schema? Nothing is coerced, nothing is dropped.

Checks run over many values at once, so that a column of plain strings costs one pass in C; only when a batch
does not fit is each row looked at, to name the ones to quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson
import pyarrow as pa

from runner.input.json_lines import LineError, ParsedLines
from runner.input.schema import is_json_text, is_projected
from runner.text import JsonText

Check = Callable[[Sequence[Any]], str | None]
"""Returns None when all values fit, else what is wrong with the first that does not."""

_NULL = type(None)
_EXACT_FLOAT_INT = 1 << 53


def column_check(kind: pa.DataType, name: str) -> Check:
    """The check for JSON values of a column of type ``kind``; null always fits."""
    if pa.types.is_struct(kind):
        return _struct_check(kind, name)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list_check(kind, name)
    if pa.types.is_integer(kind):
        return _integer_check(kind, name)
    if pa.types.is_floating(kind):
        return _float_check(kind, name)
    if pa.types.is_boolean(kind):
        return _scalar_check({bool, _NULL}, kind, name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _scalar_check({str, _NULL}, kind, name)
    return _scalar_check({_NULL}, kind, name)


class RowCheck:
    """Checks parsed JSON rows against a schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self._nulls: dict[str, Any] = dict.fromkeys(schema.names)
        self._names = list(schema.names)
        self._is_projected = is_projected(schema)
        self._json = [field.name for field in schema if is_json_text(field)]
        self._checks = {
            field.name: _accept if is_json_text(field) else column_check(field.type, field.name) for field in schema
        }

    def only_known(self, parsed: ParsedLines) -> ParsedLines:
        """Without the columns that were not chosen; without a choice, as it is."""
        if not self._is_projected:
            return parsed
        names = self._checks.keys()
        rows = [
            row if isinstance(row, LineError) else {k: v for k, v in row.items() if k in names} for row in parsed.rows
        ]
        columns = parsed.columns and {name: values for name, values in parsed.columns.items() if name in names}
        return ParsedLines(rows, columns)

    def fit(self, rows: Sequence[dict[str, Any]]) -> str | None:
        """None when every row fits, else what is wrong with one of them."""
        names = dict.fromkeys(chain.from_iterable(rows))
        return self.fit_columns({name: [row[name] for row in rows if name in row] for name in names})

    def fit_columns(self, columns: Mapping[str, Sequence[Any]]) -> str | None:
        """As `fit`, for values by column."""
        for name, values in columns.items():
            check = self._checks.get(name)
            problem = check(values) if check else f"column {name!r} is not in the job's frozen schema"
            if problem:
                return problem
        return None

    def is_complete(self, names: Iterable[str]) -> bool:
        """All columns of the schema, in its order, and none to be turned into JSON text."""
        return not self._json and list(names) == self._names

    def complete(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with every column of the schema, in its order; absent ones are None."""
        if self.is_complete(row):
            return row
        row = {**self._nulls, **row}
        for name in self._json:
            row[name] = None if row[name] is None else JsonText(orjson.dumps(row[name]).decode())
        return row


def _accept(values: Sequence[Any]) -> str | None:
    return None


def _misfit(name: str, kind: pa.DataType, value: Any) -> str:
    return f"column {name!r} is {kind} in the job's frozen schema; this row has {_shown(value)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _scalar_check(types: set[type], kind: pa.DataType, name: str) -> Check:
    def check(values: Sequence[Any]) -> str | None:
        if types.issuperset(map(type, values)):
            return None
        return _misfit(name, kind, next(v for v in values if type(v) not in types))

    return check


def _integer_check(kind: pa.DataType, name: str) -> Check:
    signed = pa.types.is_signed_integer(kind)
    low = -(1 << (kind.bit_width - 1)) if signed else 0
    high = (1 << (kind.bit_width - signed)) - 1
    is_integer = _scalar_check({int, _NULL}, kind, name)

    def check(values: Sequence[Any]) -> str | None:
        problem = is_integer(values)
        if problem:
            return problem
        outside = [v for v in values if v is not None and not low <= v <= high]
        return _misfit(name, kind, outside[0]) if outside else None

    return check


def _float_check(kind: pa.DataType, name: str) -> Check:
    """A float, or an integer that a double holds exactly; in a narrower float only what it holds exactly."""
    is_number = _scalar_check({float, int, _NULL}, kind, name)
    is_double = kind.bit_width == 64

    def exact(value: Any) -> bool:
        if value is None or (type(value) is float and is_double):
            return True
        if is_double:
            return abs(value) <= _EXACT_FLOAT_INT
        return bool(pa.scalar(float(value), pa.float64()).cast(kind, safe=False).as_py() == value)

    def check(values: Sequence[Any]) -> str | None:
        problem = is_number(values)
        if problem or (is_double and int not in set(map(type, values))):
            return problem
        inexact = [v for v in values if not exact(v)]
        return _misfit(name, kind, inexact[0]) if inexact else None

    return check


def _list_check(kind: pa.DataType, name: str) -> Check:
    is_list = _scalar_check({list, _NULL}, kind, name)
    items = column_check(kind.value_type, f"{name}[]")

    def check(values: Sequence[Any]) -> str | None:
        return is_list(values) or items(list(chain.from_iterable(v for v in values if v is not None)))

    return check


def _struct_check(kind: pa.DataType, name: str) -> Check:
    is_object = _scalar_check({dict, _NULL}, kind, name)
    children = {field.name: column_check(field.type, f"{name}.{field.name}") for field in kind}

    def check(values: Sequence[Any]) -> str | None:
        problem = is_object(values)
        if problem:
            return problem
        objects = [v for v in values if v is not None]
        unknown = next((key for o in objects for key in o if key not in children), None)
        if unknown is not None:
            return f"column {f'{name}.{unknown}'!r} is not in the job's frozen schema"
        for key, child in children.items():
            problem = child([o[key] for o in objects if key in o])
            if problem:
                return problem
        return None

    return check
