"""The ``messages`` column: chat messages as one Arrow type for the whole job, whatever keys they have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_PLAIN = (("role", pa.string()), ("content", pa.string()))
_TOOL = (("name", pa.string()), ("tool_calls", pa.string()), ("tool_call_id", pa.string()), ("other", pa.string()))

MESSAGES = pa.list_(pa.struct(_PLAIN))
"""Role and content, as training libraries expect them."""

TOOL_MESSAGES = pa.list_(pa.struct([*_PLAIN, *_TOOL]))
"""With what tool use adds. ``tool_calls`` is JSON text, as its arguments have no one type; so is ``other``, which
holds any further keys of a message. Both load as strings everywhere."""


def may_hold_tools(source: pa.Schema, columns: Sequence[str]) -> bool:
    """Whether conversations in these columns of the source may have more keys than role and content."""
    kinds = [source.field(name).type for name in columns if name in source.names]
    return any(not _is_plain(kind) for kind in kinds)


def _is_plain(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_struct(kind.value_type):
        return False
    return {field.name for field in kind.value_type} <= {name for name, _ in _PLAIN}


def packed(messages: Sequence[Mapping[str, Any]] | None, kind: pa.DataType) -> list[dict[str, Any]] | None:
    """The messages as values of ``kind``, one of the two above. Keys that it has no place for are kept as they are."""
    if messages is None or not kind.equals(TOOL_MESSAGES):
        return None if messages is None else [dict(message) for message in messages]
    return [_packed(message) for message in messages]


def _packed(message: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: message.get(name) for name, _ in (*_PLAIN, *_TOOL) if name != "other"}
    if found["tool_calls"] is not None and not isinstance(found["tool_calls"], str):
        found["tool_calls"] = json.dumps(found["tool_calls"], ensure_ascii=False)
    other = {key: value for key, value in message.items() if key not in found}
    return {**found, "other": json.dumps(other, ensure_ascii=False) if other else None}
