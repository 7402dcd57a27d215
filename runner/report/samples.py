"""Lines of data/ and errors/ as the page's cards: cut to a bearable size, every odd character spelled out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from runner.report.guard import ends_in_a_loop, says_something
from runner.report.plain import one_line, plain

_PROMPT_CHARS = 3000
_ANSWER_CHARS = 6000
_PARSED_CHARS = 2000

Card = dict[str, Any]


def answer_card(line: Mapping[str, Any], parsed: Collection[str]) -> Card:
    """A line of data/ by plain column names; ``parsed`` are the job's own columns."""
    completion, finish = str(line["completion"] or ""), str(line["finish_reason"])
    values = {name: line[name] for name in parsed}
    states = {
        "truncated": finish == "length",
        "empty": not completion.strip(),
        "repeated": finish == "repetition" or ends_in_a_loop(completion.strip()),
        "unparsed": not says_something(values, parsed),
    }
    return {
        "title": _place(line),
        "finish": finish,
        "states": [name for name, holds in states.items() if holds],
        "tags": [finish, f"{line['prompt_tokens']:,} + {line['completion_tokens']:,} tokens"],
        "prompt": _prompt(line),
        "answerTitle": "Answer",
        "answer": plain(completion, _ANSWER_CHARS),
        "parsed": plain(_json(values), _PARSED_CHARS) if values else "",
    }


def error_card(line: Mapping[str, Any], ours: Collection[str]) -> Card:
    """A line of errors/; what is not among ``ours`` is the source row."""
    source = {name: value for name, value in line.items() if name not in ours and value is not None}
    raw = f"\n\n{line['raw']}" if line.get("raw") else ""
    return {
        "title": _place(line),
        "finish": "error",
        "states": ["error"],
        "tags": [one_line(f"{line['code']} ({line['stage']})", 100)],
        "prompt": plain(_json(source), _PROMPT_CHARS) if source else "(the row could not be read)",
        "answerTitle": "Error",
        "answer": plain(f"{line['message']}{raw}", _ANSWER_CHARS),
        "parsed": "",
    }


def _place(line: Mapping[str, Any]) -> str:
    parts = [f"row {line['row_id']}"]
    if line.get("request_index"):
        parts.append(f"request {line['request_index']}")
    if line.get("sample_index"):
        parts.append(f"sample {line['sample_index']}")
    return ", ".join(parts)


def _prompt(line: Mapping[str, Any]) -> str:
    messages = line.get("messages")
    if isinstance(line.get("prompt"), str):
        return plain(line["prompt"], _PROMPT_CHARS)
    if isinstance(messages, list):
        turns = (f"{turn.get('role')}: {turn.get('content')}" for turn in messages if isinstance(turn, dict))
        return plain("\n\n".join(turns), _PROMPT_CHARS)
    return "(not kept: output.keep_prompt=none)"


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), ensure_ascii=False, indent=1, default=repr)
