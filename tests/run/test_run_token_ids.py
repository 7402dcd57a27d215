"""Prompts of token ids through a whole run, with the engine over a tiny model, and in preview and preflight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
from commands import command, read_data, run_here
from tiny_models import SPECIAL_TOKENS, save_tiny_model

from runner.cli.compose import compose
from runner.cli.origins import origins
from runner.preflight import preflight
from runner.preview import preview
from runner.text import TextTokenizer

RUN = ("job=generate", "model.path=model", "model.device=cpu", "sampling.max_tokens=12", "sampling.temperature=0")
TEXTS = ["question 0", f"{SPECIAL_TOKENS[1]}user\nhi", "a longer question than the others"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; its prompts as text and as ids, three bad ones behind them."""
    folder = tmp_path_factory.mktemp("ids")
    save_tiny_model(folder / "model")
    tokenizer = TextTokenizer(folder / "model")
    ids = [tokenizer.encode(text, special=True) for text in TEXTS]
    write(folder / "text.jsonl", [{"prompt": text} for text in TEXTS])
    write(folder / "ids.jsonl", [{"prompt_token_ids": own} for own in [*ids, [], [5, 9999], None]])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_ids_are_answered_as_their_text_is(folder: Path) -> None:
    assert run_here(folder, *RUN, "job.name=text", "input.path=text.jsonl", "job.chat=false") == 0
    assert run_here(folder, *RUN, "job.name=ids", "input.path=ids.jsonl") == 0
    text, ids = (read_data(folder / "outputs" / name) for name in ("text", "ids"))
    assert [row["completion"] for row in ids] == [row["completion"] for row in text]
    assert [row["prompt"] for row in ids] == TEXTS
    assert [len(row["prompt_token_ids"]) for row in ids] == [row["prompt_tokens"] for row in text]  # type: ignore[arg-type]
    errors = pads.dataset(folder / "outputs" / "ids" / "errors", format="ipc").to_table().to_pylist()
    assert [row["code"] for row in errors] == ["no_tokens", "bad_token_ids", "prompt_null"]
    assert errors[2]["message"] == "prompt_token_ids is null"


@pytest.mark.parametrize("kept", ["none", "messages"])
def test_ids_stay_in_their_column_whatever_is_kept_of_the_prompt(folder: Path, kept: str) -> None:
    run = ("job=generate", "engine=echo", f"job.name={kept}", f"output.keep_prompt={kept}")
    write(folder / "few.jsonl", [{"prompt_token_ids": [104, 105]}])
    code, _, err = command(folder, *run, "input.path=few.jsonl", "sampling.temperature=0")
    assert code == 0, err
    (row,) = read_data(folder / "outputs" / kept)
    assert (row["prompt_token_ids"], row["completion"], row.get("messages")) == ([104, 105], "hi", None)


def test_preview_and_preflight_show_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = [*RUN, "input.path=ids.jsonl", "preview.rows=6"]
    out = "\n".join(preview(compose(given), origins(given)))
    assert "Row 0: 10 tokens" in out and "question 0" in out
    assert "Row 1" in out and f"⟦{SPECIAL_TOKENS[1]}⟧user" in out
    assert "Row 4: would go to errors/ with bad_token_ids (render): 9999 is no token id of this model" in out
    out = "\n".join(preflight(compose(given), origins(given)))
    assert "3 bad (50.0%)" in out and "bad_token_ids" in out and "Prompts: 3, tokens each" in out
