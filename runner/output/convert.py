"""Python rows to Arrow, strictly: what does not fit the frozen schema is never cut or dropped in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from numbers import Integral
from operator import methodcaller
from typing import Any

import pyarrow as pa


class Misfit(Exception):  # noqa: N818 - a value of the user's, not a fault
    """A value that the schema cannot hold; the message names the column and the value."""


def to_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of ``rows``, column by column. A missing key is null; raises `Misfit` for anything that fits not."""
    unknown = set(chain.from_iterable(rows)).difference(schema.names)
    if unknown:
        raise Misfit(f"column {min(unknown)!r} is not in the schema of the output")
    return pa.record_batch([to_array(_values(rows, field.name), field) for field in schema], schema=schema)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return list(map(methodcaller("get", name), rows))


def to_array(values: list[Any], field: pa.Field) -> pa.Array:
    """An array of ``values``; raises `Misfit`."""
    check = _check_of(field.type)
    if check is not None:
        check(values, field.type, field.name)
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise Misfit(f"column {field.name!r} ({field.type}): {_short(error)}") from error


_Check = Callable[[list[Any], pa.DataType, str], None]


def _check_of(kind: pa.DataType) -> _Check | None:
    """What pa.array() lets through without a word for this type, or None when it is strict by itself."""
    types = pa.types
    if types.is_integer(kind):
        return _check_integers
    if types.is_struct(kind):
        return _check_structs
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _check_lists
    return None


def _check_integers(values: list[Any], kind: pa.DataType, name: str) -> None:
    """pa.array() cuts 1.5 to 1."""
    if not set(map(type, values)) <= {int, type(None)}:
        for value in values:
            if not isinstance(value, (Integral, type(None))):
                raise Misfit(f"column {name!r} ({kind}): {_short(value)} is not an integer")


def _check_structs(values: list[Any], kind: pa.DataType, name: str) -> None:
    """pa.array() drops keys that the type lacks."""
    present = [value for value in values if isinstance(value, Mapping)]
    children = {child.name: child.type for child in kind.fields}
    unknown = set(chain.from_iterable(present)).difference(children)
    if unknown:
        raise Misfit(f"column {name!r} ({_short(kind)}): {min(map(str, unknown))!r} is not one of its fields")
    for child, child_type in children.items():
        check = _check_of(child_type)
        if check is not None:
            check(_values(present, child), child_type, f"{name}.{child}")


def _check_lists(values: list[Any], kind: pa.DataType, name: str) -> None:
    """pa.array() takes a string for a list of its letters."""
    present = [value for value in values if value is not None]
    for value in present:
        if isinstance(value, (str, bytes, Mapping)):
            raise Misfit(f"column {name!r} ({_short(kind)}): {_short(value)} is not a list")
    check = _check_of(kind.value_type)
    if check is not None:
        check(list(chain.from_iterable(present)), kind.value_type, f"{name}[]")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."
