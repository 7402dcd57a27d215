"""The job that the README shows is one that loads and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import load_job
from runner.config import JobConfig
from runner.types import Completion, FinishReason, Job

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    blocks = re.findall(r"```python\n(# my_job\.py\n.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "my_job.py"
    path.write_text(blocks[0])
    return load_job(JobConfig(name="reviews", module=str(path)))


@pytest.mark.parametrize(("text", "label"), [("Positive.\n", "positive"), ("negative", "negative"), ("Hm", None)])
def test_the_readmes_job_reads_answers(job: Job, text: str, label: str | None) -> None:
    completion = Completion(0, 0, 0, text, FinishReason.STOP, None, prompt_tokens=1, completion_tokens=1, seed=0)
    assert job.parse({}, completion) == {"label": label}


def test_the_readmes_job_asks_about_the_row(job: Job) -> None:
    assert job.prompt({"review": "A dull film"}).endswith("A dull film")
