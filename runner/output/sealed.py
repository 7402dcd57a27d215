"""JSON records that know whether they are whole: each carries a checksum of itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any


class Broken(Exception):  # noqa: N818 - damage on the disk, not a fault
    """A record whose bytes are not those that were written."""


def seal(record: dict[str, Any]) -> bytes:
    """The record as JSON with its checksum; the same record always gives the same bytes."""
    return _dump({**record, "checksum": digest(record)}, indent=1) + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """The record that `seal` wrote; raises `Broken`."""
    try:
        record = json.loads(data)
        checksum = record.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Broken(f"not a record: {error}") from error
    if seal(record) != data or digest(record) != checksum:
        raise Broken("its checksum does not match")
    return record


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(_dump(value)).hexdigest()


def _dump(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, sort_keys=True, indent=indent, ensure_ascii=True, allow_nan=True).encode("ascii")
