"""Worked examples for templates, from a small JSONL file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.input.json_lines import LineError, parse_line

EXAMPLES = "examples"
MAX_BYTES = 4 * 1024 * 1024


def load_examples(name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the file, each line judged as strictly as an input row.

    Raises ConfigError naming the line that is none, and when the input has a column of the examples' name.
    """
    key = f"job.few_shot_file={name}"
    if EXAMPLES in columns:
        raise ConfigError(f"{key}: the input has a column {EXAMPLES!r} too; rename that column")
    text = _read(key, name).removeprefix(b"\xef\xbb\xbf")
    rows = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip():
            try:
                rows.append(parse_line(line))
            except LineError as error:
                raise ConfigError(f"{key}: line {number}: {error}; correct it") from None
    if not rows:
        raise ConfigError(f"{key} holds no examples; write one JSON object a line")
    return rows


def _read(key: str, name: str) -> bytes:
    try:
        with Path(name).expanduser().open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {error.strerror}; give a JSONL file") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{key} has over {MAX_BYTES >> 20} MiB; examples are a few rows, the rest is input")
    return text
