"""Runs with the real engine over a tiny random model: the same bytes whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, command, digests, run_here, start, write_rows
from tiny_models import save_tiny_model

RUN = ("job=generate", "input.path=rows.jsonl", "model.path=model", "model.device=cpu", "output.rows_per_shard=8")
ONE_BY_ONE = ("engine.max_num_seqs=1", "output.sync_seconds=0.05")  # so that there is time to kill it in between
SAMPLING = ("sampling.max_tokens=40", "sampling.temperature=0.9", "sampling.ignore_eos=true", "engine.max_num_seqs=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 24 rows, and an uninterrupted run over them in ``whole``."""
    folder = tmp_path_factory.mktemp("engine")
    save_tiny_model(folder / "model")
    write_rows(folder, 24)
    assert run_here(folder, *RUN, *SAMPLING, "output.dir=whole") == 0
    return folder


def children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")  # a thread of its own starts the engine
        return [int(child) for task in tasks for child in task.read_text().split()]
    except FileNotFoundError:
        return []


def wait_for_rows(process: subprocess.Popen[str], output: Path) -> int:
    """Until some rows are journalled; the engine's process id."""
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 3000 for path in (output / ".runner" / "journals").glob("*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (engine,) = children(process.pid)
    return engine


def test_the_batch_never_shows_in_what_is_written(folder: Path) -> None:
    wide = ("engine.max_num_seqs=16", "engine.block_size=4")
    assert run_here(folder, *RUN, *SAMPLING, "output.dir=wide", *wide) == 0
    assert digests(folder / "wide") == digests(folder / "whole")


def test_an_engine_that_is_killed_is_made_anew_and_nothing_is_lost(folder: Path) -> None:
    process = start(folder, *RUN, *SAMPLING, *ONE_BY_ONE, "output.dir=crashed")
    os.kill(wait_for_rows(process, folder / "crashed"), signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "started again (1 of 3)" in err
    assert digests(folder / "crashed") == digests(folder / "whole")


def test_a_killed_run_leaves_no_engine_behind_and_its_rerun_gives_the_same_bytes(folder: Path) -> None:
    arguments = (*RUN, *SAMPLING, *ONE_BY_ONE, "output.dir=killed")
    process = start(folder, *arguments)
    engine = wait_for_rows(process, folder / "killed")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{engine}").exists():
        assert time.monotonic() < deadline, "the engine outlived its run"
        time.sleep(0.05)
    code, _, err = command(folder, *arguments)
    assert code == 0, err
    assert digests(folder / "killed") == digests(folder / "whole")


def test_a_refusal_by_the_engine_is_one_line_and_64(folder: Path) -> None:
    code, _, err = command(folder, *RUN, "output.dir=refused", "engine.max_model_len=1000000")
    assert code == 64
    assert err.strip().splitlines()[-1].startswith("engine.max_model_len=1000000")
    assert "Traceback" not in err


def test_a_finished_job_loads_no_model(folder: Path) -> None:
    script = (
        "import sys\n"
        "from runner.__main__ import main\n"
        f"code = main({[*RUN, *SAMPLING, 'output.dir=whole']!r})\n"
        "assert code == 0, code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stderr
