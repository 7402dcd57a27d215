"""A refused command leaves the folder as it was; the error budget is the job's, however many runs it took."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from commands import command, echo, echo_here, everything, read_data, start, write_rows

BAD_JOB = "def prompt(row):\n    return row['nope']\n"


@pytest.mark.parametrize("setting", ["job.template='Say {{ prmpt }}'", "metrics.port=80000"])
def test_a_refused_overwrite_leaves_the_finished_job(tmp_path: Path, setting: str) -> None:
    write_rows(tmp_path, 5)
    assert echo_here(tmp_path) == 0
    before = everything(tmp_path / "outputs")
    code, _, err = echo(tmp_path, "output.overwrite=true", setting)
    assert (code, len(err.strip().splitlines())) == (64, 1), err
    assert everything(tmp_path / "outputs") == before


def test_a_model_that_its_engine_refuses_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.cli.compose import compose
    from runner.echo import EchoEngine
    from runner.errors import ConfigError
    from runner.run import run
    from runner.signals import StopFlag

    def refuse(engine: EchoEngine, requests: object) -> None:
        raise ConfigError("model.path: it cannot be served")

    write_rows(tmp_path, 5)
    assert echo_here(tmp_path) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EchoEngine, "submit", refuse)
    before = everything(tmp_path / "outputs")
    given = ["job=generate", "engine=echo", "input.path=rows.jsonl"]
    for other in (["output.overwrite=true"], ["output.dir=deep/new"]):
        with pytest.raises(ConfigError, match="cannot be served"):
            run(compose([*given, *other]), StopFlag())
    assert everything(tmp_path / "outputs") == before
    assert not (tmp_path / "deep").exists()


def test_a_refused_first_command_leaves_no_folder(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    assert echo(tmp_path, "job.template='Say {{ topc }}'")[0] == 64
    assert not (tmp_path / "outputs").exists()
    assert echo(tmp_path, "job.template='Say {{ prompt }}'")[0] == 0


def test_a_column_that_is_not_there_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.cli.compose import compose
    from runner.errors import ConfigError
    from runner.run import run
    from runner.signals import StopFlag

    write_rows(tmp_path, 5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("runner.output.reservation.make_folder")
    given = ["job=generate", "engine=echo", "input.path=rows.jsonl", "input.prompt_column=promt"]
    with pytest.raises(ConfigError, match=r"input\.prompt_column=promt: no such column; there are prompt, n"):
        run(compose(given), StopFlag())
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_total_failure_stays_a_failure_until_it_is_mended_and_retried(tmp_path: Path) -> None:
    write_rows(tmp_path, 300)
    (tmp_path / "bad.py").write_text(BAD_JOB)
    for _ in range(4):
        code, _, err = echo(tmp_path, "job.module=bad.py")
        assert code == 3
        assert "job_failed" in err.splitlines()[-1] and "overwrite" not in err
        assert not (tmp_path / "outputs/generate/_SUCCESS").exists()
    (tmp_path / "bad.py").write_text(BAD_JOB.replace("nope", "prompt"))
    assert echo(tmp_path, "job.module=bad.py", "resume.accept=[job.code]")[0] == 3
    assert command(tmp_path, "outputs/generate", module="runner.retry")[0] == 0
    assert (tmp_path / "outputs/generate/_SUCCESS").exists()
    assert len(read_data(tmp_path / "outputs/generate")) == 300


def test_the_last_row_alone_does_not_fail_a_job(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"question {i}"}) for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, '{"prompt": null}']) + "\n")
    assert echo_here(tmp_path, "input.limit=9") == 0
    code, _, err = echo(tmp_path, "input.limit=10")
    assert code == 0, err


HELD_JOB = """
import time
from pathlib import Path
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    while Path("hold").exists():
        time.sleep(0.02)
    return {}
"""


def begin_in_vain(folder: Path, partition: str = "0/1") -> None:
    """A job that is recorded and was killed before its first row."""
    write_rows(folder, 5)
    (folder / "held.py").write_text(HELD_JOB)
    (folder / "hold").touch()
    given = ("job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=held.py", f"partition={partition}")
    process = start(folder, *given)
    while not (folder / "outputs/generate/.runner/job.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (folder / "hold").unlink()


INPUTS = {
    "fewer rows": '{"prompt": "question 0", "n": 0}\n',
    "other rows": "".join(f'{{"prompt": "question {i}", "n": {-i}}}\n' for i in range(5)),
    "other columns": '{"prompt": "question 0", "m": "x"}\n',
}


@pytest.mark.parametrize("content", INPUTS.values(), ids=INPUTS.keys())
@pytest.mark.parametrize("name", ["rows.jsonl", "other.jsonl"])
def test_a_job_that_came_to_nothing_takes_another_input(tmp_path: Path, content: str, name: str) -> None:
    begin_in_vain(tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / name).write_text(content)
    for accepted in ("resume.accept=[input.files]", "resume.accept=[]"):
        code, _, err = echo(tmp_path, "job.module=held.py", f"input.path={name}", accepted)
        assert code == 0, err
    assert "nothing was changed" in err
    assert len(read_data(tmp_path / "outputs/generate")) == content.count("\n")


def test_a_file_that_only_has_another_name_is_refused_as_ever(tmp_path: Path) -> None:
    begin_in_vain(tmp_path)
    (tmp_path / "rows.jsonl").rename(tmp_path / "other.jsonl")
    code, _, err = echo(tmp_path, "job.module=held.py", "input.path=other.jsonl")
    assert code == 64 and "rows.jsonl is gone" in err


@pytest.mark.parametrize(("first", "second"), [("0/1", "1/2"), ("0/1", "auto"), ("auto", "auto")])
def test_another_partition_or_a_lease_keeps_the_input_as_it_was(tmp_path: Path, first: str, second: str) -> None:
    begin_in_vain(tmp_path, first)
    write_rows(tmp_path, 4)
    code, _, err = echo(tmp_path, "job.module=held.py", f"partition={second}", "resume.accept=[input.files]")
    assert code == 64 and "the input is not the one that this job began with" in err


def test_a_dangling_link_is_refused_in_one_line(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    code, _, err = echo(tmp_path, "output.dir=dangling")
    assert (code, len(err.strip().splitlines())) == (64, 1)
    assert "dangling is a link to what is not there" in err


def test_a_card_that_is_not_known_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    code, _, err = echo(tmp_path, "cost.card=foo")
    assert (code, len(err.strip().splitlines())) == (64, 1)
    assert err.startswith("cost.card=foo: ")
