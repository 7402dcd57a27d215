"""The preview: prompts as the model sees them, origins of the sampling, columns; and nothing left behind."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.entry import main
from runner.cli.origins import origins
from runner.preview import _USAGE, preview
from runner.report.plain import one_line, plain
from runner.report.prompt_view import PromptView

HOSTILE = "\x1b[2J\x1b]0;title\x07 \u202etxt.exe \x00 <script> \x9b31m \u2066"


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments, _USAGE, preview)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [{"prompt": "hello", "n": 1}, {"prompt": HOSTILE, "n": 2}, {"prompt": None, "n": 3}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


ARGUMENTS = ["job=generate", "engine=echo", "input.path=rows.jsonl"]


def test_it_shows_prompts_sampling_and_columns_and_makes_no_folder(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run([*ARGUMENTS, "sampling.top_k=5", "preview.rows=1"], capsys)
    assert (code, err) == (0, "")
    assert "user: hello\nassistant:\n" in out
    assert "Row 1" not in out
    for name, origin in (("top_k", "command line"), ("max_tokens", "preset sampling=model"), ("min_p", "default")):
        assert any(line.split()[:1] == [name] and line.endswith(origin) for line in out.splitlines()), name
    for line in ("n int64 from the input", "completion_tokens int32 added by the runner"):
        assert line in [" ".join(shown.split()) for shown in out.splitlines()]
    assert [path.name for path in rows.iterdir()] == ["rows.jsonl"]


def test_hostile_text_is_spelled_out_and_bad_rows_are_named(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run([*ARGUMENTS], capsys)
    assert "\\x1b[2J" in out
    assert "\\u202e" in out
    assert not set(out) & {"\x1b", "\x07", "\x00", "\u202e", "\x9b"}
    assert "Row 2: would go to errors/ with prompt_null" in out


def test_a_rows_own_sampling_is_named(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rows / "rows.jsonl").write_text('{"prompt": "a", "sampling_params": {"max_tokens": 7}}\n')
    assert "max_tokens=7 (this row's own)" in run(ARGUMENTS, capsys)[1]


@pytest.mark.parametrize("arguments", [["job=generat"], ["job=generate", "engine=echo", "input.path=nowhere"]])
def test_a_refusal_is_one_line_and_64(arguments: list[str], rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, out, err.count("\n")) == (64, "", 1)


def test_help_tells_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["--help"], capsys)
    assert code == 0
    assert "preview.rows" in out


def test_origins_name_the_last_that_decides(tmp_path: Path) -> None:
    (tmp_path / "sampling").mkdir()
    (tmp_path / "sampling" / "mine.yaml").write_text("top_p: 0.5\n")
    found = origins(["job=generate", "input.path=x", "sampling=mine", "++sampling.min_p=0.1"], tmp_path)
    assert found["sampling.top_p"] == "preset sampling=mine"
    assert found["sampling.min_p"] == found["input.path"] == "command line"
    assert "sampling.top_k" not in found
    found = origins(["job=synthetic_data", "sampling.temperature=0", "sampling={top_p: 1}"])
    assert found["sampling.temperature"] == found["sampling.top_p"] == "command line"
    assert found["input.path"] == "preset input=personas"


class Marked:
    """Ids from 256 are special tokens; the rest are bytes."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        raise AssertionError

    encode_chat = encode  # type: ignore[assignment]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        parts = (("" if skip_special_tokens else "<end>") if i > 255 else chr(i) for i in token_ids)
        return "".join(parts)


def test_a_special_token_is_told_from_its_text() -> None:
    pieces = PromptView(Marked()).pieces([*b"<end>", 256, 256, *b"x"])
    assert pieces == [(False, "<end>"), (True, "<end>"), (True, "<end>"), (False, "x")]


@given(st.text())
def test_plain_text_sends_no_control_and_loses_nothing_printable(text: str) -> None:
    shown = plain(text)
    stream = io.StringIO(shown)
    assert all(char in "\n\t\u200c\u200d" or char.isprintable() or char.isspace() for char in stream.read())
    assert "\n" not in one_line(text)
    if text.isascii() and text.isprintable():
        assert shown == text


def test_long_text_is_cut_and_says_so() -> None:
    assert plain("a" * 1000, 10) == "a" * 10 + "[... 990 more characters]"
