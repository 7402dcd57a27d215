"""Instruction-response pairs from topics and personas.

A row has ``topic``, ``persona``, ``task`` (explain, compare, plan, ...), ``audience`` and ``difficulty``. One worked
example precedes it: without one the embedded model of 135M parameters does not keep to any format.
Copy this file and set ``job.module`` to make it yours.
"""

from __future__ import annotations

import re
from typing import Any

from runner.types import Completion, FinishReason, Message

columns = {"instruction": "string", "response": "string", "parsed": "bool"}

_TASK = "For the topic below, write one question that fits it, then a helpful answer of two to four sentences."

_EXAMPLE = {
    "topic": "storing apples over the winter",
    "persona": "an orchard keeper in Normandy",
    "task": "instruct",
    "audience": "a family with a cool cellar",
    "difficulty": "easy",
}

_EXAMPLE_QUESTION = "How should a family store apples in a cool cellar so that they last through the winter?"
_EXAMPLE_ANSWER = (
    "Keep only apples without bruises, because one rotten apple spoils its neighbours. Wrap each one in "
    "newspaper, lay them in a single layer in a crate, and check them every week."
)

# A label opens a line, or follows the end of a sentence; around it may stand list marks, headings and bold.
_LABEL = re.compile(
    r"(?:^|\n|(?<=[.?!。？！])[ \t])[ \t>#*_]*(?:\d+[.)][ \t]*)?[*_]*"
    r"(?:alternative[ \t]+)?(?:(?P<question>question|instruction|q)|(?P<answer>answer|response|a))"
    r"(?:[ \t]*#?\d+)?[*_ \t]*[:：][*_]*[ \t]*",
    re.IGNORECASE,
)


def prompt(row: dict[str, Any]) -> list[Message]:
    return [
        {"role": "user", "content": f"{_TASK}\n\n{_fields(_EXAMPLE)}"},
        {"role": "assistant", "content": f"Question: {_EXAMPLE_QUESTION}\nAnswer: {_EXAMPLE_ANSWER}"},
        {"role": "user", "content": _fields(row)},
    ]


def parse(row: dict[str, Any], completion: Completion) -> dict[str, Any]:
    """An answer that was cut off, or that lacks one of its parts, gives parsed=false and nulls; its text stays."""
    pair = split_pair(completion.text) if completion.finish_reason is FinishReason.STOP else None
    instruction, response = pair or (None, None)
    return {"instruction": instruction, "response": response, "parsed": pair is not None}


def split_pair(text: str) -> tuple[str, str] | None:
    """The first answer and the question before it; None where either is missing, empty or copied."""
    labels = list(_LABEL.finditer(text))
    answer = next((i for i, label in enumerate(labels) if label["answer"]), None)
    if answer is None:
        return None
    questions = [label for label in labels[:answer] if label["question"]]
    instruction = _clean(text[questions[-1].end() if questions else 0 : labels[answer].start()])
    end = labels[answer + 1].start() if answer + 1 < len(labels) else len(text)
    response = _clean(text[labels[answer].end() : end])
    if not questions and not _is_one_question(instruction):
        return None
    copied = instruction in (response, _EXAMPLE_QUESTION) or response == _EXAMPLE_ANSWER
    if copied or not _says_something(instruction) or not _says_something(response):
        return None
    return instruction, response


def _fields(row: dict[str, Any]) -> str:
    return (
        f"Person: {row['persona']}\nReader: {row['audience']}\n"
        f"Task: {row['task']} ({row['difficulty']})\nTopic: {row['topic']}"
    )


def _clean(text: str) -> str:
    return text.strip().strip("*_").strip()


def _is_one_question(text: str) -> bool:
    """Models leave out the first label, but then only a lone line with a question mark is surely the question."""
    return "\n" not in text and text.endswith(("?", "？"))


def _says_something(text: str) -> bool:
    return sum(character.isalpha() for character in text) >= 3
