"""Values of many shapes in one column: written as JSON text, seen as what the source held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


class JsonText(str):
    """The JSON text of a value whose column has no one type."""

    __slots__ = ()


def as_in_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row as jobs and templates see it: a value that is carried as JSON text is itself again."""
    return {name: orjson.loads(value.encode()) if type(value) is JsonText else value for name, value in values.items()}
