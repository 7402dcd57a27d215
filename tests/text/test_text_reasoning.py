"""Reasoning: which templates mark it, and where it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.text import ReasoningMarks, reasoning_marks, split_reasoning

MARKS = ReasoningMarks("<think>", "</think>")
HEAD = "<|im_start|>assistant\n"
USER = {"role": "user", "content": "What does <think> mean?"}


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (HEAD, "<think>\nhm\n</think>\n\nYes", ("hm", "Yes")),
        (HEAD, "\n<think>hm</think>Yes </think>", ("hm", "Yes </think>")),
        (HEAD, "<think>\n\n</think>\n\nYes", ("", "Yes")),
        (HEAD, "<think>\ncut of", ("cut of", "")),
        (HEAD, "hm</think>Yes", ("hm", "Yes")),
        (HEAD, "Yes, <think> is a mark", (None, "Yes, <think> is a mark")),
        (HEAD, "", (None, "")),
        (HEAD + "<think>\n", "hm\n</think>\n\nYes", ("hm", "Yes")),
        (HEAD + "<think>\n", "cut of", ("cut of", "")),
        (HEAD + "<think>\n\n</think>\n\n", "It is </think>.", (None, "It is </think>.")),
        (None, "<think>hm</think>Yes", ("hm", "Yes")),
    ],
)
def test_reasoning_ends_where_the_mark_stands(prompt: str | None, text: str, expected: tuple[str | None, str]) -> None:
    assert split_reasoning(text, MARKS, prompt, [USER]) == expected


@pytest.mark.parametrize(
    ("begun", "text", "expected"),
    [
        ("<think>I see", " it</think>Yes", (" it", "Yes")),
        ("<think>I see</think>Well", ", </think> it is", (None, ", </think> it is")),
        ("Well", ", yes", (None, ", yes")),
    ],
)
def test_an_answer_that_is_continued_may_have_begun_its_reasoning(
    begun: str, text: str, expected: tuple[str | None, str]
) -> None:
    messages = [USER, {"role": "assistant", "content": begun}]
    assert split_reasoning(text, MARKS, HEAD + begun, messages) == expected


def test_the_template_decides(tmp_path: Path) -> None:
    assert reasoning_marks(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert reasoning_marks(tmp_path) is None
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "a</reasoning>b"}]}))
    assert reasoning_marks(tmp_path) == ReasoningMarks("<reasoning>", "</reasoning>")
    (tmp_path / "chat_template.jinja").write_text("{{ content.split('</think>')[-1] }}")
    assert reasoning_marks(tmp_path) == MARKS
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text("[")
    assert reasoning_marks(tmp_path) is None
