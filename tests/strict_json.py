"""What a JSON line must be to count as a row, by the standard library's parser: the reference of the readers' tests."""

from __future__ import annotations

import json
from typing import Any

from runner.input.json_lines import INT64_MAX, INT64_MIN


class Strict:
    """What a row must be, by the standard library's parser."""

    @staticmethod
    def pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    @staticmethod
    def integer(text: str) -> int:
        if not INT64_MIN <= int(text) <= INT64_MAX:
            raise ValueError("out of range")
        return int(text)

    @staticmethod
    def number(text: str) -> float:
        if float(text) in (float("inf"), float("-inf")):
            raise ValueError("out of range")
        return float(text)

    @staticmethod
    def constant(text: str) -> float:
        raise ValueError(text)

    @classmethod
    def parse(cls, line: bytes) -> dict[str, Any] | None:
        try:
            value = json.loads(
                line.decode("utf-8"),
                object_pairs_hook=cls.pairs,
                parse_int=cls.integer,
                parse_float=cls.number,
                parse_constant=cls.constant,
            )
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
