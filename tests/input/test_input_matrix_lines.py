"""The matrix of bad input, lines of text: quarantined with a code, or accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from input_support import GOOD, run_all

from runner.input.json_lines import LineError, parse_line
from runner.text import TextTokenizer
from runner.types import Request, RowError, Stage


@dataclass
class Line:
    """One line of a JSONL file between two good ones. ``code`` None: accepted, and ``prompt`` is what it gives."""

    text: bytes
    code: str | None
    stage: Stage = Stage.READ
    prompt: str | None = None
    job: dict[str, Any] = field(default_factory=lambda: {"chat": False})
    around: bytes = GOOD


def deep(levels: int) -> bytes:
    return b'{"prompt": "x", "deep": ' + b"[" * levels + b"]" * levels + b"}"


MESSAGES = b'{"messages": [{"role": "user", "content": "good"}]}\n'
LINES = {
    "invalid UTF-8": Line(b'{"prompt": "\xff"}', "invalid_utf8"),
    "UTF-8 of a surrogate": Line(b'{"prompt": "\xed\xa0\x80"}', "invalid_utf8"),
    "blank lines": Line(b'\n \t \r\n{"prompt": "x"}\n\n', None, prompt="x"),
    "CRLF": Line(b'{"prompt": "x"}\r', None, prompt="x"),
    "U+2028 in a string": Line('{"prompt": "a\u2028b\u0085c"}'.encode(), None, prompt="a\u2028b\u0085c"),
    "lone high surrogate": Line(rb'{"prompt": "\ud800"}', "invalid_json"),
    "lone low surrogate": Line(rb'{"prompt": "\udc00x"}', "invalid_json"),
    "surrogate pair": Line(rb'{"prompt": "\ud83d\ude00"}', None, prompt="\U0001f600"),
    "raw control character": Line(b'{"prompt": "a\x01b"}', "invalid_json"),
    "NUL bytes": Line(b"\x00\x00\x00", "invalid_json"),
    "truncated line": Line(b'{"prompt": "x', "invalid_json"),
    "trailing garbage": Line(b'{"prompt": "x"} y', "invalid_json"),
    "two objects on a line": Line(b'{"prompt": "x"}{"prompt": "y"}', "invalid_json"),
    "two objects with a comma": Line(b'{"prompt": "x"},{"prompt": "y"}', "invalid_json"),
    "one object over two lines": Line(b'{"prompt": [{}\n{}]}', "invalid_json"),
    "an array": Line(b'["x"]', "not_an_object"),
    "a string": Line(b'"x"', "not_an_object"),
    "null": Line(b"null", "not_an_object"),
    "duplicate keys": Line(b'{"prompt": "x", "prompt": "y"}', "duplicate_key"),
    "duplicate keys by escape": Line(rb'{"prompt": "x", "\u0070rompt": "y"}', "duplicate_key"),
    "duplicate keys, spaced": Line(b'{"prompt" : "x", "prompt": "y"}', "duplicate_key"),
    "duplicate nested keys": Line(b'{"prompt": "x", "a": [{"k": 1, "k": 2}]}', "duplicate_key"),
    "colons in text": Line(rb'{"prompt": "a\": b : c \\"}', None, prompt='a": b : c \\'),
    "NaN": Line(b'{"prompt": "x", "a": NaN}', "invalid_json"),
    "Infinity": Line(b'{"prompt": "x", "a": -Infinity}', "invalid_json"),
    "1e400": Line(b'{"prompt": "x", "a": 1e400}', "invalid_json"),
    "integer beyond int64": Line(b'{"prompt": "x", "a": 9223372036854775808}', "integer_out_of_range"),
    "integer below int64": Line(b'{"prompt": "x", "a": -9223372036854775809}', "integer_out_of_range"),
    "integer of 400 digits": Line(b'{"prompt": "x", "a": ' + b"9" * 400 + b"}", "invalid_json"),
    "nested integer beyond int64": Line(b'{"prompt": "x", "a": [{"b": 18446744073709551616}]}', "integer_out_of_range"),
    "largest int64": Line(b'{"prompt": "x", "a": 9223372036854775807}', None, prompt="x"),
    "large float": Line(b'{"prompt": "x", "a": 1e300}', None, prompt="x"),
    "digits in text": Line(b'{"prompt": "99999999999999999999", "a": 1e19}', None, prompt="9" * 20),
    "nesting of 100": Line(deep(99), None, prompt="x"),
    "nesting of 101": Line(deep(100), "too_deep"),
    "nesting of 2000": Line(deep(2000), "too_deep"),
    "nesting of 200000": Line(deep(200_000), "too_deep"),
    "brackets in text": Line(b'{"prompt": "' + b"[" * 150 + b'"}', None, prompt="[" * 150),
    "prompt null": Line(b'{"prompt": null}', "prompt_null", Stage.RENDER),
    "prompt absent in the row": Line(b'{"other": "x"}', "prompt_null", Stage.RENDER),
    "prompt not a string": Line(b'{"prompt": 5}', "schema_mismatch"),
    "empty prompt": Line(b'{"prompt": ""}', None, prompt=None, job={"chat": True}),
    "special-token text in chat": Line(b'{"prompt": "<|im_end|>"}', None, job={"chat": True}),
    "prompt too long": Line(b'{"prompt": "' + b"z" * 300 + b'"}', "prompt_too_long", Stage.TOKENIZE),
    "messages: unknown role": Line(
        b'{"messages": [{"role": "usr", "content": "x"}]}', "malformed_messages", Stage.RENDER, None, {}, MESSAGES
    ),
    "messages: no content": Line(
        b'{"messages": [{"role": "user"}]}', "malformed_messages", Stage.RENDER, None, {}, MESSAGES
    ),
    "messages: empty": Line(b'{"messages": []}', "malformed_messages", Stage.RENDER, None, {}, MESSAGES),
    "messages: the template refuses": Line(
        b'{"messages": [{"role": "developer", "content": "x"}]}', "chat_template", Stage.RENDER, None, {}, MESSAGES
    ),
    "messages: not objects": Line(b'{"messages": ["x"]}', "schema_mismatch", Stage.READ, None, {}, MESSAGES),
    "messages in raw mode": Line(
        b'{"messages": [{"role": "user", "content": "y"}], "prompt": "y"}', "no_chat_template", Stage.RENDER
    ),
    "template value null": Line(
        b'{"prompt": null}', "template_missing_value", Stage.RENDER, None, {"template": "{{ prompt }}", "chat": False}
    ),
    "template value missing below": Line(
        b'{"prompt": "x"}',
        "template_missing_value",
        Stage.RENDER,
        None,
        {"template": "{{ prompt[9] if prompt == 'x' }}"},
    ),
    "hostile template": Line(
        b'{"prompt": "x"}',
        "template_forbidden",
        Stage.RENDER,
        None,
        {"template": "{% if prompt == 'x' %}{{ prompt.__class__.__mro__ }}{% endif %}good"},
    ),
    "bad sampling of a row": Line(
        b'{"prompt": "x", "sampling_params": {"temperature": -1}}', "bad_sampling", Stage.RENDER
    ),
    "unknown sampling key of a row": Line(
        b'{"prompt": "x", "sampling_params": {"temprature": 1}}', "bad_sampling", Stage.RENDER
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line(name: str, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """The good rows around the line are never touched, and each physical line keeps its number."""
    case = LINES[name]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(case.around * 2 + case.text + b"\n" + case.around * 2)
    rows, rendered, _ = run_all(file, tokenizer, **case.job)
    errors = [row for row in rows if isinstance(row, RowError)]
    errors += [item for items in rendered for item in items if isinstance(item, RowError)]
    requests = [item for items in rendered for item in items if isinstance(item, Request)]
    if case.code is None:
        assert not errors
        assert len(requests) == 5
        assert case.prompt is None or requests[2].prompt == case.prompt
        return
    assert {(error.code, error.stage) for error in errors} == {(case.code, case.stage)}
    assert len(requests) == 4
    assert all(error.message and error.row_id >= 2 for error in errors)
    if case.stage is Stage.READ:
        assert (errors[0].file, errors[0].line) == (str(file), 3)
        assert errors[0].raw and len(errors[0].raw) <= 4096
    else:
        assert errors[0].source is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"é": 1, "a": NaN}', "NaN is no JSON value (char 14); write null instead"),
        ('{"a": [-Infinity]}', "Infinity is no JSON value (char 8); write null instead"),
        ('{"a": "NaN', "not valid JSON: unexpected end of data"),
    ],
)
def test_a_number_that_json_does_not_have_is_named(line: str, message: str) -> None:
    with pytest.raises(LineError) as caught:
        parse_line(line.encode())
    assert str(caught.value).startswith(message)


def test_lines_cannot_complete_one_another(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """Three lines that are three objects only when joined, each with the joint that it would need."""
    for joint in (b",", b",0,"):
        file = tmp_path / "rows.jsonl"
        file.write_bytes(b'{"a": 1}' + joint + b'{"b": 2}\n{"x": [{}\n{}]}\n')
        rows, _, _ = run_all(file, tokenizer)
        assert [getattr(row, "code", None) for row in rows] == ["invalid_json"] * 3
