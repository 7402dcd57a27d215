"""The messages column: tool calls and all, and it loads."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest
from tiny_job import tiny_spec

from runner.output import Output, may_hold_tools, plan_columns
from runner.types import RowResult

CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "a", None]}}}]
TALK = [
    {"role": "user", "content": "how warm?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "content": "21", "name": "f", "tool_call_id": "c1"},
    {"role": "assistant", "content": "21 degrees", "reasoning_content": "easy", "weight": 1.5},
]


def write(path, columns, talks):
    spec = tiny_spec(columns=columns, num_rows=len(talks), fingerprint={})
    with Output.open(path, spec) as output:
        output.take_range()
        for row, messages in enumerate(talks):
            record = {"row_id": row, "request_index": 0, "sample_index": 0, "messages": messages, "model": "m"}
            output.write(RowResult(row, [record]))
        return output.finish()


def test_tool_calls_are_kept_and_load(tmp_path):
    columns = plan_columns(pa.schema([]), keep_prompt="messages", tool_messages=True)
    summary = write(tmp_path / "out", columns, [TALK, TALK[:1], None])
    assert summary.totals.samples == 3 and not summary.totals.errors
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))["messages"]
    nothing = dict.fromkeys(("role", "content", "name", "tool_calls", "tool_call_id", "other"))
    assert rows[1] == [{**nothing, **TALK[0]}] and rows[2] is None
    assert rows[0][2] == {**nothing, **TALK[2]}
    assert rows[0][1]["content"] is None and json.loads(rows[0][1]["tool_calls"]) == CALLS
    assert json.loads(rows[0][3]["other"]) == {"reasoning_content": "easy", "weight": 1.5}


def test_plain_conversations_stay_plain(tmp_path):
    columns = plan_columns(pa.schema([]), keep_prompt="messages")
    assert write(tmp_path / "out", columns, [TALK[:1]]).totals.samples == 1
    assert str(columns.data.field("messages").type).count("string") == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), False),
        (pa.large_list(pa.struct([("role", pa.string()), ("content", pa.string())])), False),
        (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])), True),
        (pa.string(), True),
    ],
)
def test_only_sources_that_may_hold_more_get_the_wide_column(kind, expected):
    assert may_hold_tools(pa.schema([("talk", kind)]), ("talk", "body")) == expected
    assert not may_hold_tools(pa.schema([("talk", kind)]), ("messages", "body"))
