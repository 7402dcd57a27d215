"""The reasoning before an answer, split off where the model's chat template marks it.

Marks are read as text, so they must survive decoding: those that a tokenizer drops as special tokens are not here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from runner.types import Message


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What stands before and after the reasoning."""

    opening: str
    closing: str


_KNOWN = tuple(ReasoningMarks(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "reasoning", "seed:think"))


class _Start(Enum):
    """Where the prompt leaves the answer."""

    INSIDE = "inside"  # the prompt opens the reasoning
    BEHIND = "behind"  # the prompt holds all of it, mostly none: thinking is switched off
    UNKNOWN = "unknown"  # the answer itself tells


def reasoning_marks(folder: str | Path) -> ReasoningMarks | None:
    """The marks that the chat template of a model's folder names; None where it names none.

    Reads the template's file only: no tokenizer is loaded.
    """
    template = _template(Path(folder))
    return next((marks for marks in _KNOWN if marks.closing in template), None)


def split_reasoning(
    text: str, marks: ReasoningMarks, prompt: str | None, messages: Sequence[Message] | None
) -> tuple[str | None, str]:
    """(reasoning, answer) of a completion; reasoning is None where there is none.

    Reasoning that was cut off before its closing mark leaves an empty answer. The line ends that templates put
    around both are dropped.
    """
    start = _start(marks, prompt or "", messages or ())
    if start is _Start.BEHIND:
        return None, text
    opened = text.lstrip().startswith(marks.opening)
    before, closing, after = text.partition(marks.closing)
    if not closing and not opened and start is _Start.UNKNOWN:
        return None, text
    reasoning = before.lstrip().removeprefix(marks.opening) if opened else before
    return reasoning.strip("\n"), after.lstrip("\n")


def _start(marks: ReasoningMarks, prompt: str, messages: Sequence[Message]) -> _Start:
    """From the end of the prompt, where the template speaks, and from an assistant message that is continued."""
    end = prompt.rstrip()
    if messages and messages[-1].get("role") == "assistant":
        end = str(messages[-1].get("content") or "")
        opened, closed = end.rfind(marks.opening), end.rfind(marks.closing)
        if opened == closed:
            return _Start.UNKNOWN
        return _Start.INSIDE if opened > closed else _Start.BEHIND
    if end.endswith(marks.opening):
        return _Start.INSIDE
    return _Start.BEHIND if end.endswith(marks.closing) else _Start.UNKNOWN


def _template(folder: Path) -> str:
    """The text of the chat template; empty where there is none."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return ""
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError):
        return ""  # the tokenizer itself will say what is wrong with the file
    return found if isinstance(found, str) else json.dumps(found)
