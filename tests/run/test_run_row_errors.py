"""What a job's `parse` gets and gives wrongly: the row as its source holds it, and errors that say where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import Rendering, Rows, Span, Spans

from jobs import load_job
from runner.config import JobConfig
from runner.echo import EchoTokenizer
from runner.run.finishing import Finisher, quarantined
from runner.run.inflight import InFlight, RowWork
from runner.run.source import WorkSource
from runner.text import JsonText
from runner.types import FinishReason, Request, RowError, RowResult, Sample, SamplingParams, SourceRow

ROW = SourceRow(4, {"tags": JsonText('["a","b"]')}, "rows.jsonl", 7)
JOB = """
columns = {{"tags": "string"}}
def prompt(row):
    return ""
def parse(row, completion):
    return {values}
"""


def finish(tmp_path: Path, values: str) -> RowResult:
    (tmp_path / "job.py").write_text(JOB.format(values=values))
    job = load_job(JobConfig(name="x", module=str(tmp_path / "job.py")))
    work = RowWork(ROW, [Request(4, 0, [1], SamplingParams())], RowResult(4))
    inflight = InFlight(0)
    (asked,) = inflight.add(work)
    sample = Sample(asked.request_id, 0, [104, 105], FinishReason.STOP)
    ticket = inflight.settle(sample)
    assert ticket is not None
    Finisher(job, EchoTokenizer(), {"tags": "p_tags"}, "m").take(ticket, sample)
    return work.result


def place(error: RowError) -> tuple[str, str | None, int | None]:
    return error.code, error.file, error.line


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ("[1]", "parse_type"),
        ("{'other': 1}", "parse_column"),
        ("{1: 2}", "parse_column"),
        ("1 / 0", "parse_failed"),
        (
            "(_ for _ in ()).throw(type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})())",
            "parse_failed",
        ),
    ],
)
def test_a_wrong_parse_is_an_error_of_its_row_and_says_where_that_stands(
    values: str, code: str, tmp_path: Path
) -> None:
    result = finish(tmp_path, values)
    assert [place(error) for error in result.errors] == [(code, "rows.jsonl", 7)]
    assert not result.records


def test_parse_sees_values_and_the_output_their_text(tmp_path: Path) -> None:
    (record,) = finish(tmp_path, "{'tags': row['tags'][1]}").records
    assert record == {"tags": '["a","b"]', "p_tags": "b"}


def test_a_row_that_crashes_the_engine_says_where_it_stands() -> None:
    work = RowWork(ROW, [Request(4, 0, [1], SamplingParams())], RowResult(4))
    InFlight(0).add(work)
    assert [place(error) for error in quarantined(work, "x").errors] == [("engine_crash", "rows.jsonl", 7)]


class OneSpan(Spans):
    """Row 4 alone, of which the second request's sample is to be done again."""

    def __post_init__(self) -> None:
        self._left = [Span(4, 5, redo={4: frozenset({(1, 0)})})]


class RowFour(Rows):
    def read(self, start: int, stop: int) -> Iterator[SourceRow | RowError]:
        yield SourceRow(4, {"prompt": "hi"}, "rows.jsonl", 7)


def test_a_request_that_the_job_no_longer_makes_says_where_its_row_stands() -> None:
    source = WorkSource(OneSpan(5), RowFour(5), Rendering())
    works, ended = source.render(source.read(5))
    assert not works
    (error,) = ended[0].errors
    assert place(error) == ("request_gone", "rows.jsonl", 7)
    assert (error.request_index, error.sample_index, error.source) == (1, 0, {"prompt": "hi"})
