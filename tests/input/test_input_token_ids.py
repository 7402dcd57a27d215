"""Prompts that come as token ids, from a column of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_support import error, request

from jobs import load_job
from runner.config import InputConfig, JobConfig
from runner.input import InventoryReader, Renderer, build_inventory
from runner.text import TextTokenizer
from runner.types import Request, RowError, SamplingParams, SourceRow, Stage


def rendered(
    tokenizer: TextTokenizer, path: Path, job: dict[str, Any] | None = None, **columns: str
) -> list[list[Request | RowError]]:
    """The plain job over a file; a row that could not be read is its error."""
    config, job_config = InputConfig(path=str(path), **columns), JobConfig(name="t", **job or {})
    inventory = build_inventory(config)
    params, names = SamplingParams(max_tokens=20), inventory.schema.names
    renderer = Renderer(load_job(job_config, config), tokenizer, job_config, config, params, 200, names)
    rows = InventoryReader(inventory).read(0, inventory.num_rows)
    return [renderer.render([row])[0] if isinstance(row, SourceRow) else [row] for row in rows]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder / "rows.jsonl"


def parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    ids = pa.array([row["prompt_token_ids"] for row in rows], pa.large_list(pa.int32()))
    pq.write_table(pa.table({"prompt_token_ids": ids}), folder / "rows.parquet")
    return folder / "rows.parquet"


def csv(folder: Path, *rows: dict[str, Any]) -> Path:
    lines = [f'"{row["prompt_token_ids"]}"\n' for row in rows]
    (folder / "rows.csv").write_text("".join(["prompt_token_ids\n", *lines]))
    return folder / "rows.csv"


@pytest.mark.parametrize("write", [jsonl, parquet, csv])
@pytest.mark.parametrize("chat", [True, False])
def test_ids_are_asked_as_they_are(write: Any, chat: bool, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    ids = [tokenizer.encode(text, special=True) for text in ("<|im_start|>the stop", "end")]
    path = write(tmp_path, *({"prompt_token_ids": own} for own in ids))
    made = [request(items) for items in rendered(tokenizer, path, {"chat": chat})]
    assert [list(item.prompt_token_ids) for item in made] == ids
    assert [item.prompt for item in made] == ["<|bos|><|im_start|>the stop", "<|bos|>end"]
    assert [item.messages for item in made] == [None, None]


BAD: dict[str, tuple[Any, str, str]] = {
    "no ids": ([], "no_tokens", "prompt_token_ids is empty"),
    "a negative id": ([5, -1], "bad_token_ids", "-1 is no token id of this model; they are from 0 to "),
    "an id after the last": ([5, 10**6], "bad_token_ids", "1000000 is no token id of this model; they are from 0 to "),
    "an id beyond 32 bits": ([1 << 40], "bad_token_ids", "1099511627776 is no token id"),
    "a null": ([5, None], "bad_token_ids", "prompt_token_ids[1] is 'None', not a token id"),
    "a fraction": ([5, 1.5], "bad_token_ids", "prompt_token_ids[1] is '1.5', not a token id"),
    "a boolean": ([True], "schema_mismatch", "this row has True"),
    "text": ([5, "x"], "schema_mismatch", "this row has 'x'"),
    "one number": (5, "schema_mismatch", "this row has 5"),
    "a list of prompts": ([[5], [6]], "schema_mismatch", "this row has [5]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_ids_cost_only_their_row(name: str, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    ids, code, message = BAD[name]
    good = {"prompt_token_ids": [5, 6]}
    results = rendered(tokenizer, jsonl(tmp_path, good, {"prompt_token_ids": ids}, good, good))
    bad = error(results[1])
    assert (bad.code, bad.line) == (code, 2) and message in bad.message
    for i in (0, 2, 3):
        assert list(request(results[i]).prompt_token_ids) == [5, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[5, true]", "[1] is 'True'"), ("[[5]]", "[0] is '[5]'"), ("5", "is int"), ("[5", "no JSON"), ("the", "no JSON")],
)
def test_ids_as_text_are_json(text: str, message: str, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    bad, good = rendered(tokenizer, csv(tmp_path, {"prompt_token_ids": text}, {"prompt_token_ids": [5]}))
    assert (error(bad).code, error(bad).stage) == ("bad_token_ids", Stage.RENDER) and message in error(bad).message
    assert list(request(good).prompt_token_ids) == [5]


def test_ids_that_a_reader_widened_to_floats_are_ids(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    pq.write_table(pa.table({"prompt_token_ids": [[5.0, 6.0], [5.5]]}), tmp_path / "rows.parquet")
    good, bad = rendered(tokenizer, tmp_path / "rows.parquet")
    assert [type(token) for token in request(good).prompt_token_ids] == [int, int]
    assert error(bad).code == "bad_token_ids"


def test_a_row_with_ids_is_asked_by_them_and_one_without_by_its_messages_then_its_prompt(
    tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    messages = [{"role": "user", "content": "by messages"}]
    path = jsonl(
        tmp_path,
        {"prompt_token_ids": [5, 6], "messages": messages, "prompt": "by prompt"},
        {"prompt_token_ids": None, "messages": messages, "prompt": "by prompt"},
        {"prompt_token_ids": None, "messages": None, "prompt": "by prompt"},
    )
    ids, conversation, text = (request(items) for items in rendered(tokenizer, path))
    assert list(ids.prompt_token_ids) == [5, 6]
    assert conversation.messages == messages
    assert text.messages == [{"role": "user", "content": "by prompt"}]


def test_a_column_that_was_named_goes_before_ids(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = jsonl(tmp_path, {"prompt_token_ids": [5], "answer": "x", "prompt": [7, 8]})
    (by_answer,) = rendered(tokenizer, path, prompt_column="answer")
    assert request(by_answer).messages == [{"role": "user", "content": "x"}]
    (by_prompt,) = rendered(tokenizer, path, prompt_token_ids_column="prompt")
    assert list(request(by_prompt).prompt_token_ids) == [7, 8]


def test_ids_in_the_prompt_column_are_refused_with_the_setting_that_takes_them(
    tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    (items,) = rendered(tokenizer, jsonl(tmp_path, {"prompt": [1, 2, 3]}))
    assert error(items).code == "prompt_type"
    assert error(items).message == "prompt is list, not a string; input.prompt_token_ids_column=prompt takes it"


def test_a_system_prompt_has_no_place_in_ids(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = jsonl(tmp_path, {"prompt_token_ids": [5], "prompt": None}, {"prompt_token_ids": None, "prompt": "hi"})
    bad, good = rendered(tokenizer, path, {"system_prompt": "Be brief."})
    assert (error(bad).code, request(good).prompt_token_ids is not None) == ("system_prompt", True)


def test_a_job_of_ones_own_may_return_the_column(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    module = tmp_path / "own.py"
    module.write_text("def prompt(row):\n    return row['prompt_token_ids']\n")
    path = jsonl(tmp_path, {"prompt_token_ids": [5]}, {"prompt_token_ids": []}, {"prompt_token_ids": [5]})
    good, empty, _ = rendered(tokenizer, path, {"module": str(module)})
    assert list(request(good).prompt_token_ids) == [5]
    assert error(empty).code == "no_tokens"


def test_ids_that_are_too_long_are_refused_or_cut_like_text(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    ids = [5 + i % 50 for i in range(300)]
    path = jsonl(tmp_path, {"prompt_token_ids": ids})
    (items,) = rendered(tokenizer, path)
    assert error(items).code == "prompt_too_long"
    (items,) = rendered(tokenizer, path, {"truncate_prompt": True})
    assert request(items).truncated and list(request(items).prompt_token_ids) == ids[-180:]
