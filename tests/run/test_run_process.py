"""Whole runs as processes, with the stand-in engine: exit codes, kills, signals, and what is on the disk after."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from commands import command, digests, echo, everything, start, write_rows, write_slow_job

from runner.seeds import sample_seed

SLOW = ("job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=slow.py", "output.rows_per_shard=20")
BRISK = ("output.sync_seconds=0.2", "engine.max_num_seqs=4")


def table(folder: Path) -> list[dict[str, object]]:
    return pads.dataset(folder / "data", format="ipc").to_table().to_pylist()


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def wait_for_rows(process: subprocess.Popen[str], output: Path) -> None:
    """Until some rows are on the disk, and surely not all."""
    journals = output / ".runner" / "journals"
    wait_for(lambda: process.poll() is not None or any(path.stat().st_size > 2000 for path in journals.glob("*")))
    assert process.poll() is None


def test_a_run_writes_every_row_once_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path, 45)
    code, out, err = echo(tmp_path, "output.rows_per_shard=20", "sampling.temperature=0")
    assert (code, out) == (0, "")
    rows = table(tmp_path / "outputs" / "generate")
    assert [row["row_id"] for row in rows] == [row["n"] for row in rows] == list(range(45))
    assert rows[7]["completion"] == "user: question 7\nassistant:"
    assert sorted(digests(tmp_path / "outputs" / "generate")) == [f"data/part-0000{i}.arrow" for i in range(3)]
    for part in (str(tmp_path / "outputs" / "generate" / "data"), "45 rows", "load_dataset("):
        assert part in err


def test_n_samples_of_a_row_differ_by_their_seeds(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    code, _, _ = echo(tmp_path, "sampling.n=3", "seed=7")
    assert code == 0
    rows = table(tmp_path / "outputs" / "generate")
    assert [(row["row_id"], row["sample_index"]) for row in rows] == [(i, k) for i in range(5) for k in range(3)]
    assert all(row["seed"] == sample_seed(7, row["row_id"], 0, row["sample_index"]) for row in rows)
    assert len({row["completion"] for row in rows}) == 15


def test_a_second_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 30)
    assert echo(tmp_path)[0] == 0
    before = everything(tmp_path / "outputs")
    code, _, err = echo(tmp_path)
    assert code == 0
    assert "done; nothing was changed" in err
    assert "load_dataset(" in err
    assert everything(tmp_path / "outputs") == before


def test_batch_size_never_shows_in_the_output(tmp_path: Path) -> None:
    write_rows(tmp_path, 60)
    for name, size in (("a", 1), ("b", 7), ("c", 256)):
        code, _, _ = echo(tmp_path, f"output.dir={name}", f"engine.max_num_seqs={size}", "output.rows_per_shard=20")
        assert code == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(tmp_path / "c")


def test_no_rows_at_all_is_a_finished_job(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    code, _, err = echo(tmp_path)
    assert code == 0, err


def test_a_changed_setting_is_refused_key_by_key_and_a_runtime_one_is_not(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    assert echo(tmp_path)[0] == 0
    code, out, err = echo(tmp_path, "sampling.temperature=0.5")
    assert (code, out) == (64, "")
    assert "sampling.temperature" in err
    assert len(err.strip().splitlines()) == 1
    assert echo(tmp_path, "engine.max_num_seqs=3")[0] == 0
    assert echo(tmp_path, "sampling.temperature=0.5", "output.overwrite=true")[0] == 0


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    assert echo(tmp_path)[0] == 0
    write_rows(tmp_path, 6)
    code, _, err = echo(tmp_path)
    assert code == 64
    assert "rows.jsonl" in err


def test_a_higher_limit_continues_the_job(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    assert echo(tmp_path, "input.limit=25", "output.rows_per_shard=20")[0] == 0
    code, _, err = echo(tmp_path, "input.limit=45", "output.rows_per_shard=20")
    assert code == 0, err
    assert [row["row_id"] for row in table(tmp_path / "outputs" / "generate")] == list(range(45))


def test_partitions_share_the_folder(tmp_path: Path) -> None:
    write_rows(tmp_path, 50)
    codes = [echo(tmp_path, "output.rows_per_shard=10", f"partition={w}/2") for w in (0, 1)]
    assert [code for code, _, _ in codes] == [0, 0]
    assert "other partitions" in codes[0][2]
    assert [row["row_id"] for row in table(tmp_path / "outputs" / "generate")] == list(range(50))
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


def test_a_kill_at_any_time_and_a_rerun_give_the_same_shards(tmp_path: Path) -> None:
    write_rows(tmp_path, 150)
    write_slow_job(tmp_path, 0.005)
    arguments = (*SLOW, *BRISK, "sampling.n=2")
    code, _, err = command(tmp_path, *arguments, "output.dir=whole")
    assert code == 0, err
    chance = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, *arguments, "output.dir=killed")
        wait_for_rows(process, tmp_path / "killed")
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
    code, _, err = command(tmp_path, *arguments, "output.dir=killed")
    assert code == 0, err
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_exits_75_soon_and_the_rerun_completes(tmp_path: Path, number: signal.Signals) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.005)
    process = start(tmp_path, *SLOW, *BRISK)
    wait_for_rows(process, tmp_path / "outputs" / "generate")
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert time.monotonic() - began < 20
    assert "run the same command again" in err
    write_slow_job(tmp_path, 0)
    code, _, err = command(tmp_path, *SLOW, *BRISK, "resume.accept=[job.code]")
    assert code == 0, err
    rows = table(tmp_path / "outputs" / "generate")
    assert [row["row_id"] for row in rows] == list(range(400))


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.05)
    process = start(tmp_path, *SLOW, "engine.max_num_seqs=200", "output.sync_seconds=0.2")
    wait_for_rows(process, tmp_path / "outputs" / "generate")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_any_moment_of_the_start_never_kills(tmp_path: Path, number: signal.Signals) -> None:
    """The handlers stand before anything heavy is imported; what comes later is polled."""
    write_rows(tmp_path, 3)
    write_slow_job(tmp_path, 1)
    for delay in (0.15, 0.3, 0.6, 0.9):
        process = start(tmp_path, *SLOW, "output.overwrite=true")
        wait_for(lambda process=process: _handles(process.pid, number))
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        # 0 where a drain after USR1 finished the three rows; a signal without a handler would give a negative code.
        assert process.returncode in (0, 75), err


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, from its SigCgt mask."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_second_runner_on_the_same_output_exits_73(tmp_path: Path) -> None:
    write_rows(tmp_path, 400)
    write_slow_job(tmp_path, 0.02)
    first = start(tmp_path, *SLOW, *BRISK)
    wait_for_rows(first, tmp_path / "outputs" / "generate")
    began = time.monotonic()
    code, _, err = command(tmp_path, *SLOW, *BRISK)
    first.kill()
    first.communicate()
    assert code == 73, err
    assert time.monotonic() - began < 10
    assert len(err.strip().splitlines()) == 1


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
