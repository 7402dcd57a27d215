"""The guard over the answers: what counts as bad, when it warns, when it ends the run."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import GuardConfig
from runner.errors import BudgetError, ExitCode
from runner.report.guard import QualityGuard, ends_in_a_loop, says_something
from runner.types import Completion, FinishReason

STOP = FinishReason.STOP


def answer(text: str, reason: FinishReason = STOP) -> Completion:
    return Completion(0, 0, 0, text, reason, None, prompt_tokens=1, completion_tokens=1, seed=0)


def guarded(answers: list[tuple[str, FinishReason, bool]], **limits: float) -> QualityGuard:
    guard = QualityGuard(GuardConfig(window=4, **limits))  # type: ignore[arg-type]
    for text, reason, parsed in answers:
        guard.add(answer(text, reason), parsed)
    return guard


def test_each_fault_counts_under_its_name() -> None:
    guard = guarded([("a", STOP, True), ("a ", STOP, False), (" \n", STOP, True), ("b", FinishReason.LENGTH, True)])
    assert guard.rates == {"truncated": 0.25, "empty": 0.25, "repeated": 0.0, "duplicate": 0.25, "unparsed": 0.25}
    guard.add(answer("x " * 100, FinishReason.REPETITION), True)
    assert guard.rates["repeated"] == 0.25
    assert guard.totals["duplicate"] == 1


def test_equal_answers_are_known_again_among_many() -> None:
    guard = QualityGuard(GuardConfig(window=10_000))
    for text in [f"answer {i}" for i in range(20_000)] * 2:
        guard.add(answer(text), True)
    assert 19_800 <= guard.totals["duplicate"] <= 20_000  # a place may be taken by another one
    assert guard.rates["duplicate"] > 0.98


def test_rates_roll() -> None:
    guard = guarded([("", STOP, True)] * 4 + [(text, STOP, True) for text in "abcd"])
    assert guard.rates["empty"] == 0
    assert guard.totals["empty"] == 4
    assert guard.answers == 8


def test_a_bad_rate_warns_once_and_a_limit_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    bad = [("a", FinishReason.LENGTH, True), ("b", STOP, True)] * 2
    with caplog.at_level(logging.WARNING):
        guard = guarded(bad)
        guard.check()
        guard.check()
    assert [record.getMessage() for record in caplog.records if "max_tokens" in record.getMessage()] != []
    assert sum("end at max_tokens" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(BudgetError, match=r"^guard.max_truncated=0.4: 50%") as caught:
        guarded(bad, max_truncated=0.4).check()
    assert caught.value.exit_code == ExitCode.ERROR_BUDGET
    assert "\n" not in str(caught.value)
    guarded(bad, max_truncated=0.5, max_duplicate=0.5).check()


def test_nothing_is_judged_before_the_window_is_full() -> None:
    guarded([("", STOP, False)] * 3, max_empty=0.0).check()


@pytest.mark.parametrize(
    ("parsed", "says"),
    [({"positive": False, "score": 0}, True), ({"score": None}, False), ({"text": "", "parsed": False}, False)],
)
def test_only_nothing_counts_as_unparsed(parsed: dict[str, object], says: bool) -> None:
    assert says_something(parsed, dict.fromkeys(parsed, "string")) is says


@pytest.mark.parametrize(
    "text",
    [
        "the same again. " * 20,
        "a" * 300,
        "It began well. " + "no no " * 60,
        "ha " * 30,
        "long story, " * 5 + "xyz" * 40,
    ],
)
def test_loops_are_found(text: str) -> None:
    assert ends_in_a_loop(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "no no no",
        "A list: 1. apples 2. pears 3. plums 4. quinces 5. cherries, and so on until the basket is full of fruit.",
        "the same again. " * 20 + "But then it went on to say something that is quite different from all of that.",
        "|---|---|\n",
    ],
)
def test_plain_text_is_no_loop(text: str) -> None:
    assert not ends_in_a_loop(text)


@given(st.text(min_size=1, max_size=100), st.integers(4, 30))
def test_any_piece_said_often_enough_is_a_loop(piece: str, turns: int) -> None:
    text = piece * max(turns, -(-60 // len(piece)))
    assert ends_in_a_loop(text)


@given(st.text(max_size=2000))
def test_any_text_can_be_judged(text: str) -> None:
    ends_in_a_loop(text)
