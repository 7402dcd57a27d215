"""Which columns the output has: the source's, then ours, then the job's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from runner.errors import ConfigError
from runner.output.logprobs import LOGPROBS
from runner.output.messages import MESSAGES, TOOL_MESSAGES

_KEY = (("row_id", pa.int64()), ("request_index", pa.int32()), ("sample_index", pa.int32()))
_KEPT_PROMPT: dict[str, tuple[tuple[str, pa.DataType], ...]] = {
    "none": (),
    "prompt": (("prompt", pa.string()),),
    "messages": (("messages", MESSAGES),),
    "tool messages": (("messages", TOOL_MESSAGES),),
}
_ANSWER = (
    ("completion", pa.string()),
    ("finish_reason", pa.string()),
    ("stop_reason", pa.string()),
    ("prompt_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
    ("seed", pa.int64()),
    ("model", pa.string()),
)
_ERROR = (
    ("num_samples", pa.int32()),
    ("file", pa.string()),
    ("line", pa.int64()),
    ("stage", pa.string()),
    ("code", pa.string()),
    ("message", pa.string()),
    ("raw", pa.string()),
)


@dataclass(frozen=True)
class Columns:
    """The frozen schemas of data/ and errors/, and what each column of ours is called there.

    ``names`` and ``error_names`` map a column's plain name ("row_id", "completion", ...) to its name in the
    file. "prompt" or "messages" is absent from ``names`` when it is not kept, or when the source has a column
    of that name: the source's stays as it is.
    """

    data: pa.Schema
    errors: pa.Schema
    source: tuple[str, ...]
    names: Mapping[str, str]
    error_names: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of data/ that name a sample; its sort order."""
        return tuple(self.names[name] for name, _ in _KEY)

    @property
    def error_key(self) -> tuple[str, ...]:
        """The columns of errors/ in its sort order."""
        return tuple(self.error_names[name] for name, _ in _KEY)


def plan_columns(
    source: pa.Schema,
    *,
    parsed: Mapping[str, str] | None = None,
    keep_prompt: str = "prompt",
    prefix: str = "",
    reasoning: bool = False,
    tool_messages: bool = False,
    logprobs: bool = False,
) -> Columns:
    """The columns of a job.

    ``parsed`` maps the job's own columns to Arrow type names ("string", "int64", "list<string>",
    "struct<a: int64>"). With ``tool_messages`` kept messages have room for any keys, not for role and content alone.
    ``reasoning`` and ``logprobs`` add the columns of these names.
    Raises `ConfigError` for a clash, an unknown type, or a source type that loaders of
    the output cannot read.
    """
    fields = [pa.field(field.name, _loadable(field.name, field.type)) for field in source]
    taken = {field.name for field in fields}
    if len(taken) < len(fields):
        raise ConfigError("input.path: two source columns have the same name; rename one")
    keep = "tool messages" if keep_prompt == "messages" and tool_messages else keep_prompt
    kept = [(name, kind) for name, kind in _KEPT_PROMPT[keep] if prefix + name not in taken]
    answer = list(_ANSWER)
    if reasoning:
        answer.insert(1, ("reasoning", pa.string()))
    if logprobs:
        answer.append(("logprobs", LOGPROBS))
    own = [(name, kind) for name, kind in (*_KEY, *kept, *answer)]
    own += [(name, arrow_type(f"job column {name}", text)) for name, text in (parsed or {}).items()]
    names = {name: prefix + name for name, _ in own}
    _refuse_clash(taken, list(names.values()), len(own))
    errors = [*_KEY, *_ERROR]
    error_names = {name: _free_name(prefix + name, taken) for name, _ in errors}
    return Columns(
        data=pa.schema(fields + [pa.field(names[name], kind) for name, kind in own]),
        errors=pa.schema(fields + [pa.field(error_names[name], kind) for name, kind in errors]),
        source=tuple(field.name for field in fields),
        names=names,
        error_names=error_names,
    )


def arrow_type(where: str, text: str) -> pa.DataType:
    """The Arrow type that ``text`` names; ``where`` says in an error what asked for it."""
    text = text.strip()
    if match := re.fullmatch(r"list<(.*)>", text, re.DOTALL):
        return pa.list_(arrow_type(where, match[1]))
    if match := re.fullmatch(r"struct<(.*)>", text, re.DOTALL):
        pairs = [item.partition(":")[::2] for item in _split(match[1])]
        return pa.struct([(name.strip(), arrow_type(where, kind)) for name, kind in pairs])
    try:
        return pa.type_for_alias(text)
    except ValueError:
        raise ConfigError(
            f"{where}: {text!r} is no Arrow type; use string, int64, float64, bool, list<...> or struct<a: ...>"
        ) from None


def _split(text: str) -> list[str]:
    """Splits at the commas that stand outside angle brackets."""
    items, depth = [""], 0
    for char in text:
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += char
    return items


def _refuse_clash(source: set[str], added: list[str], num_added: int) -> None:
    clashes = sorted(source.intersection(added))
    if clashes:
        raise ConfigError(
            f"output.column_prefix: the source already has the column {clashes[0]!r}; "
            "set output.column_prefix (for example gen_) or rename it"
        )
    if len(set(added)) < num_added:
        raise ConfigError(f"job columns: one of {added} is also a column that the runner adds; rename it")


def _free_name(name: str, source: set[str]) -> str:
    """Sources often have a column "code" or "message" of their own; in errors/ ours then steps aside."""
    free = f"error_{name}" if name in source else name
    if free in source:
        raise ConfigError(f"output.column_prefix: the source has columns {name!r} and {free!r}; set a prefix")
    return free


def _loadable(name: str, kind: pa.DataType) -> pa.DataType:
    """The type that stands for ``kind`` in the output: the same values, in a type that datasets can load."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _loadable(name, kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _loadable(name, kind.value_type)
    if types.is_map(kind):
        entry = pa.struct([("key", _loadable(name, kind.key_type)), ("value", _loadable(name, kind.item_type))])
        return pa.list_(entry)
    if types.is_fixed_size_list(kind):
        return pa.list_(_loadable(name, kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_loadable(name, kind.value_type))
    if types.is_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(_loadable(name, kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _loadable(name, field.type)) for field in kind.fields])
    if types.is_union(kind):
        raise ConfigError(f"input.path: column {name!r} has the type {kind}, which data sets cannot hold; drop it")
    return kind
