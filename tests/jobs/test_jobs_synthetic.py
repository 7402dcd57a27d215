"""The synthetic-data job: its rows, its prompt, and a table of answers as small models really write them."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import load_job
from jobs.synthetic_data import split_pair
from runner.config import JobConfig
from runner.types import Completion, FinishReason

JOB = load_job(JobConfig(name="synthetic_data", kind="synthetic_data"))
ROWS = [json.loads(line) for line in (files("jobs") / "data" / "personas.jsonl").read_text("utf-8").splitlines()]
PAIR = ("Why do cats purr?", "They purr when they are content.")


def completion(text: str, finish_reason: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(0, 0, 0, text, finish_reason, None, prompt_tokens=1, completion_tokens=1, seed=0)


GOOD = {
    "as asked": "Question: Why do cats purr?\nAnswer: They purr when they are content.",
    "blank lines": "\n\nQuestion: Why do cats purr?\n\nAnswer: They purr when they are content.\n\n",
    "other labels": "Instruction: Why do cats purr?\nResponse: They purr when they are content.",
    "short labels": "Q: Why do cats purr?\nA: They purr when they are content.",
    "any case": "QUESTION: Why do cats purr?\nanswer : They purr when they are content.",
    "bold labels": "**Question:** Why do cats purr?\n**Answer:** They purr when they are content.",
    "bold outside the colon": "**Question**: Why do cats purr?\n**Answer**: They purr when they are content.",
    "headings": "## Question: Why do cats purr?\n## Answer: They purr when they are content.",
    "numbered labels": "Question 1: Why do cats purr?\nAnswer 1: They purr when they are content.",
    "numbered lines": "1. Question: Why do cats purr?\n2. Answer: They purr when they are content.",
    "on one line": "Question: Why do cats purr? Answer: They purr when they are content.",
    "wide punctuation": "Question：Why do cats purr?\nAnswer：They purr when they are content.",
    "preamble": "Sure! Here is one.\n\nQuestion: Why do cats purr?\nAnswer: They purr when they are content.",
    "first label left out": "Why do cats purr?\nAnswer: They purr when they are content.",
    "a second pair": "Question: Why do cats purr?\nAnswer: They purr when they are content.\nQuestion: And dogs?",
    "a second answer": "Question: Why do cats purr?\nAnswer: They purr when they are content.\nAlternative answer: No.",
    "two questions": "Question: And dogs?\nQuestion: Why do cats purr?\nAnswer: They purr when they are content.",
    "parts on their own lines": "Question:\nWhy do cats purr?\nAnswer:\nThey purr when they are content.",
    "windows line ends": "Question: Why do cats purr?\r\nAnswer: They purr when they are content.\r\n",
}

BAD = {
    "empty": "",
    "prose": "Cats purr when they are content.",
    "question only": "Question: Why do cats purr?",
    "answer only": "Answer: They purr when they are content.",
    "empty answer": "Question: Why do cats purr?\nAnswer:",
    "placeholder answer": "Question: Why do cats purr?\nAnswer: ...",
    "placeholder question": "Question: ...\nAnswer: They purr when they are content.",
    "answer before question": "Answer: They purr.\nQuestion: Why do cats purr?",
    "answer that is the next label": "Question: Why do cats purr?\nAnswer:\nQuestion: And dogs?",
    "answer that repeats the question": "Question: Why do cats purr?\nAnswer: Why do cats purr?",
    "unlabelled statement": "I am sorry for your loss.\nAnswer: They purr when they are content.",
    "unlabelled paragraphs": "Hello there.\nWhy do cats purr?\nAnswer: They purr when they are content.",
    "digits": "Question: 1 + 1?\nAnswer: 2",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_a_pair_is_found(text: str) -> None:
    assert split_pair(text) == PAIR


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_no_pair_is_made_up(text: str) -> None:
    assert split_pair(text) is None


def test_an_answer_of_several_paragraphs_stays_whole() -> None:
    text = "Question: Which one?\nAnswer: This: the first.\n\n- a point\n- **another** point\n\nThe key question: none."
    assert split_pair(text) == ("Which one?", text.split("Answer: ")[1])


def test_words_that_only_look_like_labels_do_not_cut() -> None:
    text = "Question: What is a FAQ: a list?\nAnswer: It has a column Q: and a column A: for each entry, and data: too."
    assert split_pair(text) == (
        "What is a FAQ: a list?",
        "It has a column Q: and a column A: for each entry, and data: too.",
    )


def test_either_half_of_the_worked_example_given_back_is_no_pair() -> None:
    question, answer = JOB.prompt(ROWS[0])[1]["content"].split("\n")
    assert split_pair(f"{question}\nAnswer: In a crate.") is None
    assert split_pair(f"Question: What about pears?\n{answer}") is None
    assert split_pair("Question: What about pears?\nAnswer: In a crate.") is not None


def test_parsed_columns() -> None:
    assert JOB.parse({}, completion(GOOD["as asked"])) == {
        "instruction": PAIR[0],
        "response": PAIR[1],
        "parsed": True,
    }
    assert JOB.parse({}, completion("nothing of the kind")) == {"instruction": None, "response": None, "parsed": False}


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.REPETITION])
def test_an_answer_that_was_cut_off_is_not_parsed(reason: FinishReason) -> None:
    assert JOB.parse({}, completion(GOOD["as asked"], reason))["parsed"] is False


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    pair = split_pair(text)
    assert pair is None or all(part and part == part.strip() for part in pair)


line = st.text(st.characters(categories=["Ll", "Lu"]), min_size=3).map(lambda word: f"x {word} y")


@given(line, line)
def test_what_is_written_as_asked_is_read_back(question: str, answer: str) -> None:
    pair = split_pair(f"Question: {question}?\nAnswer: {answer}.")
    assert pair == (f"{question}?", f"{answer}.")


def test_rows_have_one_schema_and_no_blank() -> None:
    names = ("topic", "persona", "task", "audience", "difficulty")
    for row in ROWS:
        assert tuple(row) == names
        assert all(isinstance(value, str) and value == value.strip() and value for value in row.values())


def test_rows_are_many_and_unique() -> None:
    assert len(ROWS) >= 200
    assert len({row["topic"].casefold() for row in ROWS}) == len(ROWS)
    assert len({row["persona"].casefold() for row in ROWS}) == len(ROWS)


def test_rows_are_varied() -> None:
    tasks = Counter(row["task"] for row in ROWS)
    assert len(tasks) >= 10
    assert max(tasks.values()) < len(ROWS) / 3
    assert {row["difficulty"] for row in ROWS} == {"easy", "medium", "hard"}


def test_the_prompt_ends_with_the_rows_own_fields() -> None:
    for row in ROWS:
        *shared, last = JOB.prompt(row)
        assert all(row[name] in last["content"] for name in row)
        assert [message["role"] for message in (*shared, last)] == ["user", "assistant", "user"]
        assert shared == JOB.prompt(ROWS[0])[:2]  # one beginning for all rows: prefix caching computes it once
