"""What a template's operators, calls and filters may be given, judged before they run by the sizes that go in.

Each function raises SecurityError for what could make a value too large, or take too long without a look at the clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

MAX_CHARS = 8 * 1024 * 1024
MAX_WIDTH = 99_999
MAX_PRODUCT = 64 * 1024 * 1024
MAX_JSON_INDENT = 16

_GROWING_FILTERS = frozenset({"batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap"})
_SIZED_FILTERS = frozenset({"batch", "center", "indent", "round", "slice", "wordwrap"})
_FORMATTING = frozenset({"format", "format_map"})
_LOOKING_UP = frozenset({*_FORMATTING, "translate"})  # may write one value of a dictionary many times
_DIRECTIVE = re.compile(r"%(?:\([^)]*\))?([-+ #0-9.*]*)")
_NUMBER = re.compile(r"\d+")
_INT64 = 1 << 63
_ITEM_CHARS = 16  # what one more value counts for


def bound_call(function: Any, values: Sequence[Any]) -> None:
    """Of a function or a method; what a method belongs to counts as an argument."""
    bound_values(values)
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, int):
        _bound_widths(values)
    if not isinstance(owner, str | bytes | list | tuple):
        return
    _bound_product((owner, *values))
    if name in _LOOKING_UP:
        _bound_product((owner, _extent(values)))
    if name in _FORMATTING and isinstance(owner, str):
        _bound_braces(owner)


def bound_filter(name: str, values: Sequence[Any]) -> None:
    """Of a filter; ``values`` start with what is filtered."""
    bound_values(values)
    if name in _GROWING_FILTERS:
        _bound_product(values)
    if name in _SIZED_FILTERS:
        _bound_widths(values[1:])
    if name == "format":
        _bound_percents(values[0])
    if name == "sum" and any(isinstance(value, list | tuple) for value in values[1:]):
        raise SecurityError("sum is for numbers; it would copy lists again and again")


def bounded_json(join: Callable[[Iterable[str]], str], value: Any, **options: Any) -> str:
    """As json.dumps; ``join`` bounds the time and size of indented text, where depth and items multiply."""
    indent = options.get("indent")
    if indent is None:
        return json.dumps(value, **options)
    if (indent if isinstance(indent, int) else len(indent)) > MAX_JSON_INDENT:
        raise SecurityError(f"tojson takes an indent of at most {MAX_JSON_INDENT}")
    return join(json.JSONEncoder(**options).iterencode(value))


def bound_values(values: Iterable[Any]) -> None:
    """No huge number, and not too much text in all, however deep it is nested."""
    left = MAX_CHARS
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, int) and abs(value) > _INT64:
            raise SecurityError("a number is too large")
        left -= size(value) + _ITEM_CHARS
        if left < 0:
            raise SecurityError(f"a value grows over {MAX_CHARS} characters")
        stack.extend(_items(value))


def size(value: Any) -> int:
    """Characters or items."""
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _extent(values: Iterable[Any]) -> int:
    """All text and items, however deep."""
    total, stack = 0, list(values)
    while stack:
        value = stack.pop()
        total += size(value)
        stack.extend(_items(value))
    return total


def _bound_widths(values: Iterable[Any]) -> None:
    if any(isinstance(value, int | float) and abs(value) > MAX_WIDTH for value in values):
        raise SecurityError(f"a number asks for a size over {MAX_WIDTH}")


def _bound_product(values: Sequence[Any]) -> None:
    """A method or filter on text may give as much as its two largest arguments multiplied."""
    sizes = sorted((abs(v) if isinstance(v, int) else size(v) for v in values), reverse=True)
    if len(sizes) > 1 and (sizes[0] * max(sizes[1], 1) > MAX_PRODUCT):
        raise SecurityError("a text grows too long")


def _bound_percents(text: Any) -> None:
    """Of what stands left of ``%``."""
    if isinstance(text, str):
        _bound_specs(_DIRECTIVE.findall(text), "*")


def _bound_braces(text: str) -> None:
    """Of what str.format is called on."""
    try:
        specs = [spec or "" for _, _, spec, _ in Formatter().parse(text)]
    except ValueError:
        return  # the call itself will say what is malformed
    _bound_specs(specs, "{")


def _bound_specs(specs: Iterable[str], from_values: str) -> None:
    widths = []
    for spec in specs:
        if from_values in spec:
            raise SecurityError("a format takes its width from a value; write the width into the format")
        widths += [int(number) if len(number) < 20 else MAX_CHARS for number in _NUMBER.findall(spec)]
    if max(widths, default=0) > MAX_WIDTH:
        raise SecurityError(f"a format asks for a width over {MAX_WIDTH}")
    if sum(widths) > MAX_CHARS:
        raise SecurityError(f"the widths of a format are together over {MAX_CHARS}")


def _bound_power(left: Any, right: Any) -> None:
    if not (isinstance(left, int | float) and isinstance(right, int | float) and abs(left) <= 1e6 and abs(right) <= 64):
        raise SecurityError("a power is too large")


def _bound_times(left: Any, right: Any) -> None:
    if isinstance(left, int | float) and isinstance(right, int | float):
        if max(abs(left), abs(right)) > 1 << 256:
            raise SecurityError("a number is too large")
        return
    _bound_product((left, right))


def _bound_modulo(left: Any, right: Any) -> None:
    bound_values((left, right))
    if isinstance(left, str):
        _bound_percents(left)
        _bound_product((left.count("%"), _extent((right,))))


def _bound_plus(left: Any, right: Any) -> None:
    bound_values((left, right))


BINOP_BOUNDS: dict[str, Callable[[Any, Any], None]] = {
    "*": _bound_times,
    "**": _bound_power,
    "%": _bound_modulo,
    "+": _bound_plus,
}
