"""What a run says at its end."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.report.summary import log_summary

LOAD_LINE = "rows = load_dataset('x')"


def said(caplog: pytest.LogCaptureFixture, **changed: object) -> str:
    sums = {"rows": 3, "samples": 3, "failed_rows": 0, "dropped": 0, "prompt_tokens": 9, "completion_tokens": 8}
    with caplog.at_level(logging.INFO):
        log_summary(Path("x"), SimpleNamespace(**sums | {"errors": {}} | changed), LOAD_LINE, is_complete=True)  # type: ignore[arg-type]
    return caplog.text


def test_it_ends_with_the_line_that_loads_the_data(caplog: pytest.LogCaptureFixture) -> None:
    assert LOAD_LINE in said(caplog)


def test_without_an_answer_there_is_nothing_to_load(caplog: pytest.LogCaptureFixture) -> None:
    text = said(caplog, samples=0, failed_rows=3, errors={"parse_failed": 3})
    assert LOAD_LINE not in text
    assert "3 rows have errors (parse_failed 3)" in text
    assert "nothing to load: no row has an answer" in text


def test_an_input_without_rows_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert "nothing to load: the input has no rows" in said(caplog, rows=0, samples=0)


def test_many_codes_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    codes = {f"code {i}\nline {i}": 30 - i for i in range(30)}
    text = said(caplog, failed_rows=30, errors=codes)
    assert "code 0\\nline 0 30, " in text
    assert "code 9" in text
    assert "20 more codes" in text
    assert "code 10" not in text
