"""Reruns, retries and extensions as a user types them."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from commands import command, digests, echo, echo_here, everything, run_here, start, write_rows, write_slow_job

SMALL = ("output.rows_per_shard=10", "sampling.max_tokens=30", "sampling.temperature=0")
RERUN = ("rerun.finish_reason=[length]", "sampling.max_tokens=200")


def lines(folder: Path, kind: str = "data") -> dict[tuple[int, int, int], dict[str, object]]:
    found = pads.dataset(folder / kind, format="ipc").to_table().to_pylist()
    return {(line["row_id"], line["request_index"], line["sample_index"]): line for line in found}


def write_mixed_rows(folder: Path, num_rows: int) -> list[int]:
    """Every third prompt, and so its echo, is longer than 30 tokens; returns those rows."""
    rows = [{"prompt": "long " * 10 if i % 3 == 0 else "hi", "n": i} for i in range(num_rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [i for i in range(num_rows) if i % 3 == 0]


def test_longer_answers_for_those_that_were_cut(tmp_path: Path) -> None:
    long_rows = write_mixed_rows(tmp_path, 45)
    out = tmp_path / "outputs" / "generate"
    assert echo_here(tmp_path, *SMALL) == 0
    before = lines(out)
    assert [key[0] for key, line in before.items() if line["finish_reason"] == "length"] == long_rows
    code, _, err = echo(tmp_path, *SMALL, *RERUN)
    assert code == 0, err
    after = lines(out)
    assert [key[0] for key in after if after[key] != before[key]] == long_rows
    assert {line["finish_reason"] for line in after.values()} == {"stop"}
    for arguments in (SMALL, (*SMALL, *RERUN)):
        stand = everything(out)
        code, _, err = echo(tmp_path, *arguments)
        assert code == 0 and "done; nothing was changed" in err
        assert everything(out) == stand
    assert echo_here(tmp_path, *SMALL) == 0


def test_samples_that_were_not_cut_stay(tmp_path: Path) -> None:
    write_rows(tmp_path, 12)
    (tmp_path / "half.py").write_text(
        "def prompt(row):\n    return ['x' * 5, 'y' * 60]\ndef parse(row, completion):\n    return {}\n"
    )
    arguments = ("job.module=half.py", "sampling.n=2", "sampling.max_tokens=30", "output.rows_per_shard=5")
    assert echo_here(tmp_path, *arguments) == 0
    before = lines(tmp_path / "outputs" / "generate")
    code, _, err = echo(tmp_path, *arguments, *RERUN)
    assert code == 0, err
    after = lines(tmp_path / "outputs" / "generate")
    assert after.keys() == before.keys() and len(after) == 12 * 4
    assert all((after[key] == before[key]) == (key[1] == 0) for key in after)
    assert all(after[key]["seed"] == before[key]["seed"] for key in after)


def test_a_rerun_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_mixed_rows(tmp_path, 20)
    assert echo_here(tmp_path, *SMALL) == 0
    for wrong, part in (
        (("sampling.n=2",), "sampling.n"),
        (("job.system_prompt=be",), "job.system_prompt"),
        (("output.overwrite=true",), "output.overwrite"),
        (("rerun.finish_reason=[lenght]",), "there are stop, length, repetition"),
        (("output.dir=elsewhere",), "holds no job yet"),
    ):
        code, _, err = echo(tmp_path, *SMALL, *RERUN, *wrong)
        assert code == 64 and part in err and len(err.strip().splitlines()) == 1, err


FLAKY = """
from pathlib import Path
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    if row["n"] % 4 == 0 and not Path("healed").exists():
        raise ValueError("not today")
    return {}
"""


def test_a_retry_runs_only_the_quarantined(tmp_path: Path) -> None:
    write_rows(tmp_path, 40)
    (tmp_path / "flaky.py").write_text(FLAKY)
    arguments = ("job.module=flaky.py", "output.rows_per_shard=10", "output.max_error_rate=1", "sampling.n=2")
    out = tmp_path / "outputs" / "generate"
    assert echo_here(tmp_path, *arguments) == 0
    before = lines(out)
    assert len(before) == 60 and len(lines(out, "errors")) == 20
    (tmp_path / "elsewhere").mkdir()
    retry = (str(out), "engine.max_num_seqs=2")
    code, _, err = command(tmp_path / "elsewhere", *retry, module="runner.retry")
    assert code == 0 and len(lines(out, "errors")) == 20, err
    (tmp_path / "healed").write_text("")
    code, _, err = command(tmp_path / "elsewhere", *retry, module="runner.retry")
    assert code == 0, err
    after = lines(out)
    assert len(after) == 80 and {key: after[key] for key in before} == before and not lines(out, "errors")
    for again, module in (((*retry,), "runner.retry"), (("job=generate", "input.path=rows.jsonl", "engine=echo",
                                                         *arguments), "runner")):  # fmt: skip
        stand = everything(out)
        assert command(tmp_path, *again, module=module)[0] == 0
        assert everything(out) == stand


def test_retry_refuses_what_is_no_job(tmp_path: Path) -> None:
    for arguments in ((str(tmp_path),), (str(tmp_path), "sampling.temprature=1")):
        code, out, err = command(tmp_path, *arguments, module="runner.retry")
        assert code == 64 and not out and len(err.strip().splitlines()) == 1, err


def test_more_files_and_a_higher_limit_continue_a_finished_job(tmp_path: Path) -> None:
    long_rows = write_mixed_rows(tmp_path, 45)
    out = tmp_path / "outputs" / "generate"
    assert echo_here(tmp_path, *SMALL, "input.limit=25") == 0
    first = lines(out)
    assert echo_here(tmp_path, *SMALL, *RERUN, "input.limit=25") == 0
    assert echo_here(tmp_path, *SMALL, "input.limit=45") == 0
    after = lines(out)
    assert [key[0] for key in after] == list(range(45))
    assert all(after[key]["finish_reason"] == "stop" for key in first)
    cut = [key[0] for key, line in after.items() if line["finish_reason"] == "length"]
    assert cut == [row for row in long_rows if row >= 25]
    (tmp_path / "a.jsonl").write_text('{"prompt": "more", "n": 45}\n')
    code, _, err = echo(tmp_path, *SMALL, "input.path=[rows.jsonl,a.jsonl]", "input.limit=45")
    assert code == 0, err
    code, _, err = echo(tmp_path, *SMALL, "input.path=[rows.jsonl,a.jsonl]", "input.limit=46")
    assert code == 0, err
    assert [line["n"] for line in lines(out).values()] == list(range(46))
    assert echo_here(tmp_path, *SMALL, "input.path=[rows.jsonl,a.jsonl]", "input.limit=46") == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rerun_survives_kills(tmp_path: Path, seed: int) -> None:
    write_mixed_rows(tmp_path, 150)
    write_slow_job(tmp_path, 0)
    arguments = ("job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=slow.py", *SMALL)
    for name in ("whole", "killed"):
        assert run_here(tmp_path, *arguments, f"output.dir={name}") == 0
    assert run_here(tmp_path, *arguments, *RERUN, "output.dir=whole") == 0
    write_slow_job(tmp_path, 0.02)
    rerun = (*arguments, *RERUN, "output.dir=killed", "output.sync_seconds=0.1", "resume.accept=[job.code]")
    chance, attempts, codes = random.Random(seed), tmp_path / "killed" / ".runner" / "attempts", []
    for _ in range(3):
        before = set(attempts.iterdir())
        process = start(tmp_path, *rerun)
        while before.issuperset(attempts.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.random())
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        assert run_here(tmp_path, *arguments, "output.dir=killed") == 0
    assert -signal.SIGKILL in codes  # the other kills may come when all is done
    code, _, err = command(tmp_path, *rerun)
    assert code == 0, err
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    stand = everything(tmp_path / "killed")
    assert run_here(tmp_path, *arguments, "output.dir=killed") == 0
    assert everything(tmp_path / "killed") == stand
