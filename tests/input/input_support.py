"""What the tests of the input room share: a plain job, rendering, and the whole way from a file to requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.config import InputConfig, JobConfig
from runner.errors import ConfigError
from runner.input import InventoryReader, Renderer, build_inventory
from runner.text import TextTokenizer
from runner.types import Completion, Refused, Request, RowError, SamplingParams, SourceRow

GOOD = b'{"prompt": "good"}\n'
USER = {"role": "user", "content": "hi"}


class FileJob:
    """The plain job: the prompt or messages column."""

    columns: dict[str, str] = {}  # noqa: RUF012 - as a user writes it

    def prompt(self, row: dict[str, Any]) -> Any:
        if row.get("messages") is not None:
            return row["messages"]
        if "prompt" not in row:
            raise ConfigError("input.prompt_column=prompt is no column")
        if row["prompt"] is None:
            raise Refused("prompt is null", "prompt_null")
        return row["prompt"]

    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any]:
        return {}


def run_all(
    path: Any, tokenizer: TextTokenizer, output_dir: Path | None = None, max_model_len: int = 200, **job: Any
) -> tuple[list[SourceRow | RowError], list[list[Request | RowError]], Renderer]:
    """Everything that the input room does: inventory, reading, rendering."""
    config = InputConfig(path=str(path) if isinstance(path, Path) else path)
    inventory = build_inventory(config, output_dir)
    rows = list(InventoryReader(inventory).read(0, inventory.num_rows))
    assert [row.row_id for row in rows] == list(range(inventory.num_rows))
    renderer = Renderer(
        FileJob(),
        tokenizer,
        JobConfig(name="test", **job),
        config,
        SamplingParams(max_tokens=20),
        max_model_len,
        inventory.schema.names,
    )
    return rows, renderer.render([row for row in rows if isinstance(row, SourceRow)]), renderer


def render(
    tokenizer: TextTokenizer, *rows: dict[str, Any], job: Any = None, max_model_len: int | None = None, **config: Any
) -> list[list[Request | RowError]]:
    renderer = Renderer(
        job or FileJob(),
        tokenizer,
        JobConfig(name="test", **config),
        InputConfig(path="x"),
        SamplingParams(max_tokens=20),
        max_model_len,
        list(rows[0]),
    )
    return renderer.render([SourceRow(i, row) for i, row in enumerate(rows)])


def request(items: list[Request | RowError]) -> Request:
    (only,) = items
    assert isinstance(only, Request), only
    return only


def error(items: list[Request | RowError]) -> RowError:
    (only,) = items
    assert isinstance(only, RowError), only
    return only


def batch_line(body: Any, url: str = "/v1/chat/completions", method: str = "POST") -> dict[str, Any]:
    return {"custom_id": "a", "method": method, "url": url, "body": body}
