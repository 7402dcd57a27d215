"""What a job does to the row that it is given stays out of the output."""

from __future__ import annotations

from typing import Any

from input_support import FileJob

from runner.config import InputConfig, JobConfig
from runner.input import Renderer
from runner.text import TextTokenizer
from runner.types import Request, SamplingParams, SourceRow


class GreedyJob(FileJob):
    """Takes its row apart while it asks."""

    def prompt(self, row: dict[str, Any]) -> str:
        row["instances"].clear()
        row["more"] = 1
        return str(row.pop("topic"))


def test_prompt_cannot_change_the_row(tokenizer: TextTokenizer) -> None:
    values = {"topic": "rain", "instances": [{"input": "x"}]}
    row = SourceRow(0, dict(values, instances=[{"input": "x"}]))
    renderer = Renderer(
        GreedyJob(),
        tokenizer,
        JobConfig(name="test", chat=False),
        InputConfig(path="x"),
        SamplingParams(max_tokens=20),
        None,
        list(values),
    )
    ((request,),) = renderer.render([row])
    assert isinstance(request, Request)
    assert request.prompt == "rain"
    assert row.values == values
