"""A model whose template marks its reasoning has a column for it, and the completion goes without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
from commands import run_here, write_rows
from tiny_models import save_tiny_model

from jobs import load_job
from runner.config import JobConfig
from runner.echo import EchoTokenizer
from runner.run.finishing import Finisher
from runner.run.inflight import InFlight, RowWork
from runner.text import ReasoningMarks
from runner.types import FinishReason, Request, RowResult, Sample, SamplingParams, SourceRow

NAMES = {name: name for name in ("completion", "reasoning", "completion_tokens", "seen")}
JOB = """
columns = {"seen": "string"}
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    return {"seen": f"{completion.reasoning}|{completion.text}"}
"""


def finish(tmp_path: Path, marks: ReasoningMarks | None, text: str) -> dict[str, Any]:
    (tmp_path / "job.py").write_text(JOB)
    request = Request(0, 0, [1], SamplingParams(), prompt="assistant:", messages=[{"role": "user", "content": "q"}])
    work = RowWork(SourceRow(0, {}), [request], RowResult(0))
    inflight = InFlight(0)
    (asked,) = inflight.add(work)
    sample = Sample(asked.request_id, 0, list(text.encode()), FinishReason.STOP)
    ticket = inflight.settle(sample)
    assert ticket is not None
    job = load_job(JobConfig(name="x", module=str(tmp_path / "job.py")))
    Finisher(job, EchoTokenizer(), NAMES, "m", marks).take(ticket, sample)
    (record,) = work.result.records
    return record


def test_the_job_and_the_output_see_both_apart(tmp_path: Path) -> None:
    record = finish(tmp_path, ReasoningMarks("<think>", "</think>"), "<think>\nhm\n</think>\n\nYes")
    assert record == {"completion": "Yes", "reasoning": "hm", "completion_tokens": 24, "seen": "hm|Yes"}


def test_without_a_mark_in_the_template_the_text_stays_whole(tmp_path: Path) -> None:
    assert finish(tmp_path, None, "<think>hm</think>Yes")["completion"] == "<think>hm</think>Yes"


def test_the_template_of_the_model_gives_the_column(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path, 2)
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}")
    run = ("job=generate", "input.path=rows.jsonl", "model.path=model", "model.device=cpu", "sampling.max_tokens=3")
    for arguments, has_column in (((), True), (("job.chat=false",), False)):
        assert run_here(tmp_path, *run, *arguments, f"output.dir=out{has_column}", "sampling.ignore_eos=true") == 0
        table = pads.dataset(tmp_path / f"out{has_column}" / "data", format="ipc").to_table()
        assert ("reasoning" in table.column_names) is has_column
        if has_column:  # three random tokens never close it
            assert all(table["reasoning"].to_pylist()) and table["completion"].to_pylist() == ["", ""]
