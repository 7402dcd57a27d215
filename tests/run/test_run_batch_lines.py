"""OpenAI batch lines from end to end: the custom_id and everything beside it comes out as it went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
from commands import command


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    asked = {"model": "any", "messages": [{"role": "user", "content": "Say ENDE"}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked}


def test_batch_lines_are_answered_or_refused_under_their_id(tmp_path: Path) -> None:
    lines = [
        line("two", n=2, seed=5),
        line("stopped", stop="END", max_completion_tokens=100, temperature=0),
        line("refused", logprobs=True, top_logprobs=50),
        line("logprobs", logprobs=True, top_logprobs=1, max_completion_tokens=2, temperature=0),
        line("tools", tools=[{"type": "function"}], temperature=0),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    code, _, err = command(tmp_path, "job=generate", "input.path=rows.jsonl", "engine=echo", "output.dir=out")
    assert code == 0, err
    rows = pads.dataset(tmp_path / "out" / "data", format="ipc").to_table().to_pylist()
    assert [(row["custom_id"], row["sample_index"]) for row in rows] == [
        ("two", 0),
        ("two", 1),
        ("stopped", 0),
        ("logprobs", 0),
        ("tools", 0),
    ]
    certain = [{"token_id": ord(c), "logprob": 0.0, "top": [{"token_id": ord(c), "logprob": 0.0}]} for c in "us"]
    assert [row["logprobs"] for row in rows] == [None, None, None, certain, None]
    assert [row["seed"] for row in rows[:2]] == [5, 6]
    assert (rows[2]["completion"], rows[2]["stop_reason"]) == ("user: Say ", "END")
    assert {row["method"] for row in rows} == {"POST"}
    (error,) = pads.dataset(tmp_path / "out" / "errors", format="ipc").to_table().to_pylist()
    assert (error["custom_id"], error["code"]) == ("refused", "bad_sampling")
    assert "body.logprobs=50" in error["message"]
