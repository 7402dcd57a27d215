"""Whole runs as processes, with the stand-in engine: what they write, refuse and return."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from commands import command, digests, echo, echo_here, everything, read_data, write_rows

from runner.seeds import sample_seed


def test_a_run_writes_every_row_once_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path, 45)
    code, out, err = echo(tmp_path, "output.rows_per_shard=20", "sampling.temperature=0")
    assert (code, out) == (0, "")
    rows = read_data(tmp_path / "outputs" / "generate")
    assert [row["row_id"] for row in rows] == [row["n"] for row in rows] == list(range(45))
    assert rows[7]["completion"] == "user: question 7\nassistant:"
    assert sorted(digests(tmp_path / "outputs" / "generate")) == [f"data/part-0000{i}.arrow" for i in range(3)]
    for part in (str(tmp_path / "outputs" / "generate" / "data"), "45 rows", "load_dataset("):
        assert part in err


def test_n_samples_of_a_row_differ_by_their_seeds(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    code, _, _ = echo(tmp_path, "sampling.n=3", "seed=7")
    assert code == 0
    rows = read_data(tmp_path / "outputs" / "generate")
    assert [(row["row_id"], row["sample_index"]) for row in rows] == [(i, k) for i in range(5) for k in range(3)]
    assert all(row["seed"] == sample_seed(7, row["row_id"], 0, row["sample_index"]) for row in rows)
    assert len({row["completion"] for row in rows}) == 15


def test_a_second_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    assert echo_here(tmp_path) == 0
    before = everything(tmp_path / "outputs")
    code, _, err = echo(tmp_path)
    assert code == 0
    assert "done; nothing was changed" in err
    assert "load_dataset(" in err
    assert everything(tmp_path / "outputs") == before


def test_a_run_that_asks_for_fewer_rows_than_one_before_says_what_is_missing(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    assert echo_here(tmp_path, "output.rows_per_shard=10", "input.limit=20", "partition=0/2") == 0
    code, _, err = echo(tmp_path, "output.rows_per_shard=10", "input.limit=15")
    assert code == 0
    assert "an earlier run asked for more rows" in err
    assert not (tmp_path / "outputs" / "generate" / "_SUCCESS").exists()
    code, _, err = echo(tmp_path, "output.rows_per_shard=10", "input.limit=20")
    assert code == 0
    assert "an earlier run" not in err
    assert (tmp_path / "outputs" / "generate" / "_SUCCESS").exists()


def test_batch_size_never_shows_in_the_output(tmp_path: Path) -> None:
    write_rows(tmp_path, 60)
    for name, size in (("a", 1), ("b", 7), ("c", 256)):
        code, _, _ = echo(tmp_path, f"output.dir={name}", f"engine.max_num_seqs={size}", "output.rows_per_shard=20")
        assert code == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(tmp_path / "c")


def test_no_rows_at_all_is_a_finished_job_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    code, _, err = echo(tmp_path)
    assert code == 0, err
    assert "the input has no rows" in err


def test_dropped_rows_are_counted_once(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    (tmp_path / "drop.py").write_text("def prompt(row):\n    return row['prompt'] if row['n'] else None\n")
    code, _, err = echo(tmp_path, "job.module=drop.py")
    assert code == 0, err
    assert re.findall(r"dropped:? \d+", err) == ["dropped 1"]


def test_a_changed_setting_is_refused_key_by_key_and_a_runtime_one_is_not(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    assert echo_here(tmp_path) == 0
    code, out, err = echo(tmp_path, "sampling.temperature=0.5")
    assert (code, out) == (64, "")
    assert "sampling.temperature" in err
    assert len(err.strip().splitlines()) == 1
    assert echo(tmp_path, "engine.max_num_seqs=3")[0] == 0
    assert echo(tmp_path, "sampling.temperature=0.5", "output.overwrite=true")[0] == 0


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    assert echo_here(tmp_path) == 0
    write_rows(tmp_path, 6)
    code, _, err = echo(tmp_path)
    assert code == 64
    assert "rows.jsonl" in err


def test_a_higher_limit_continues_the_job(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    assert echo_here(tmp_path, "input.limit=25", "output.rows_per_shard=20") == 0
    code, _, err = echo(tmp_path, "input.limit=45", "output.rows_per_shard=20")
    assert code == 0, err
    assert [row["row_id"] for row in read_data(tmp_path / "outputs" / "generate")] == list(range(45))


def test_partitions_share_the_folder(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    codes = [echo(tmp_path, "output.rows_per_shard=10", f"partition={w}/2") for w in (0, 1)]
    assert [code for code, _, _ in codes] == [0, 0]
    assert "other partitions" in codes[0][2]
    assert [row["row_id"] for row in read_data(tmp_path / "outputs" / "generate")] == list(range(50))
    assert (tmp_path / "outputs" / "generate" / "_SUCCESS").exists()


def test_bad_rows_are_quarantined_with_a_code(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('not json\n{"prompt": null, "n": 1}\n')
    code, _, err = echo(tmp_path)
    assert code == 0, err
    errors = pads.dataset(tmp_path / "outputs" / "generate" / "errors", format="ipc").to_table().to_pylist()
    assert [error["row_id"] for error in errors] == [30, 31]
    assert "2 rows have errors" in err


def test_the_error_budget_ends_the_run_with_3(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', "broken"] * 200
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    code, _, err = echo(tmp_path)
    assert code == 3
    assert "output.max_error_rate=0.05" in err.strip().splitlines()[-1]
    assert echo(tmp_path, "output.max_error_rate=1")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("job=generate", "input.path=nowhere.jsonl"),
        ("job=generate", "input.path=rows.jsonl", "job.module=nowhere.py"),
        ("job=generate", "input.path=rows.jsonl", "job.kind=generat"),
        ("job=generate", "input.path=rows.jsonl", "job.template='{{ nothing }}'"),
        ("job=generate", "input.path=rows.jsonl", "output.dir=s3://bucket/x"),
        ("job=generate", "input.path=rows.jsonl", "sampling.temprature=1"),
        ("job=generate", "input.path=rows.jsonl", "model.path=./nowhere", "engine=transformers"),
        ("job=generate", "input.path=rows.jsonl", "job.template_file=nowhere.jinja"),
    ],
)
def test_a_refusal_is_one_line_and_exit_64(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_rows(tmp_path, 3)
    code, out, err = command(tmp_path, "engine=echo", *arguments)
    assert (code, out) == (64, "")
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("folder", ["blocked", "blocked/out/deep"])
def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path, folder: str) -> None:
    write_rows(tmp_path, 3)
    (tmp_path / "blocked").write_text("a file, not a folder")
    code, _, err = echo(tmp_path, f"output.dir={folder}")
    assert (code, err) == (64, f"output.dir={folder}: blocked is a file; give a folder, or a name that is free\n")


def test_torch_is_never_loaded_with_the_stand_in(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    script = (
        "import sys\n"
        "from runner.__main__ import main\n"
        "code = main(['job=generate', 'input.path=rows.jsonl', 'engine=echo'])\n"
        "assert code == 0\n"
        "loaded = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    _run_script(tmp_path, script)


@pytest.mark.parametrize("argument", ["sampling.temprature=1", "sampling.max_tokens=x", "output.dir=s3://b"])
def test_torch_is_not_loaded_for_a_refusal(tmp_path: Path, argument: str) -> None:
    write_rows(tmp_path, 3)
    script = (
        "import sys\n"
        "from runner.__main__ import main\n"
        f"code = main(['job=generate', 'input.path=rows.jsonl', {argument!r}])\n"
        "assert code == 64, code\n"
        "loaded = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    _run_script(tmp_path, script)


def _run_script(folder: Path, script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_help_and_version_need_nothing(tmp_path: Path) -> None:
    for flag in ("--help", "-h", "--version", "--cfg"):
        arguments = (flag, "job=synthetic_data") if flag == "--cfg" else (flag,)
        code, out, err = command(tmp_path, *arguments)
        assert (code, err) == (0, "")
        assert out
    assert not list(tmp_path.iterdir())


def test_nothing_but_the_output_folder_is_left_behind(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    assert echo(tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "rows.jsonl"]


def test_the_recorded_job_holds_settings_and_no_object(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    assert echo(tmp_path)[0] == 0
    record = json.loads((tmp_path / "outputs" / "generate" / ".runner" / "job.json").read_text())
    assert record["fingerprint"]["sampling.max_tokens"] == 1024
    assert not [value for value in record["fingerprint"].values() if "object at" in str(value)]
