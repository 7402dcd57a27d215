"""One job's output as the next one's input: whose sampling holds, and what a row's own sampling adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import command, read_data

JUDGE = ("job=generate", "engine=echo", "job.name=judged", "input.path='outputs/answers/data/*.arrow'",
         "input.prompt_column=answer_completion", "sampling.max_tokens=8")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the output of a job whose rows brought their own sampling."""
    rows = [{"prompt": "why " * 9, "sampling_params": {"max_tokens": 6 + i}} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = command(
        tmp_path, "job=generate", "engine=echo", "job.name=answers", "input.path=rows.jsonl",
        "output.column_prefix=answer_", "sampling.temperature=0",
    )  # fmt: skip
    assert code == 0, err
    return tmp_path


@pytest.mark.parametrize(("setting", "tokens"), [((), [6, 7, 8]), (("input.sampling_column=null",), [8, 8, 8])])
def test_the_second_job_samples_as_the_first_unless_told(
    folder: Path, setting: tuple[str, ...], tokens: list[int]
) -> None:
    code, _, err = command(folder, *JUDGE, *setting)
    assert code == 0, err
    rows = read_data(folder / "outputs" / "judged")
    assert [row["completion_tokens"] for row in rows] == tokens
    assert [row["answer_completion_tokens"] for row in rows] == [6, 7, 8]
    assert ("input.sampling_column=null" in err) == (not setting)


def test_a_named_sampling_column_is_honoured_whole(tmp_path: Path) -> None:
    row = {"prompt": "why", "own": {"max_tokens": 5, "logprobs": 1}, "sampling_params": {"max_tokens": 2}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    code, _, err = command(
        tmp_path, "job=generate", "engine=echo", "input.path=rows.jsonl", "input.sampling_column=own"
    )
    assert code == 0, err
    (found,) = read_data(tmp_path / "outputs" / "generate")
    assert len(found["logprobs"]) == 5  # type: ignore[arg-type]
