"""Input from the Hugging Face hub, by address and by name, against a hub of this machine: whole runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from fake_hub import Hub, serving
from remote_rows import LINES, OBJECTS

ROOT = Path(__file__).resolve().parents[2]
CARD = b"---\nconfigs:\n- config_name: default\n  data_files: a.jsonl\n---\n"

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Hub:
    return Hub("owner/rows", {**OBJECTS, "README.md": CARD})


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Iterator[Run]:
    """Runs a job over an input, with the hub of this machine in the place of the real one."""
    with serving(hub) as address:
        own = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "runner", "job=generate", "engine=echo", "output.dir=out"]

        def start(path: str) -> subprocess.CompletedProcess[str]:
            arguments = [*command, f'input.path="{path}"']
            return subprocess.run(arguments, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=100)

        yield start


def column(tmp_path: Path, name: str) -> list[int]:
    table: pa.Table = pads.dataset(tmp_path / "out" / "data", format="ipc").to_table()
    return sorted(table.column(name).to_pylist())


def test_files_of_the_hub_are_read_by_their_addresses(run: Run, hub: Hub, tmp_path: Path) -> None:
    done = run("hf://datasets/owner/rows/a.*")
    assert done.returncode == 0, done.stderr
    assert column(tmp_path, "n") == sorted([*range(5000)] * len(OBJECTS))
    again = run("hf://datasets/owner/rows/a.*")
    assert again.returncode == 0 and "nothing was changed" in again.stderr
    hub.files["a.jsonl"] = LINES.replace(b"question 0", b"question 9")
    changed = run("hf://datasets/owner/rows/a.*")
    assert changed.returncode == 64 and "hf://datasets/owner/rows/a.jsonl" in changed.stderr


def test_a_data_set_is_read_by_its_name(run: Run, hub: Hub, tmp_path: Path) -> None:
    done = run("dataset:owner/rows?split=train")
    assert done.returncode == 0, done.stderr
    assert column(tmp_path, "n") == list(range(5000))
    again = run("dataset:owner/rows?split=train")
    assert again.returncode == 0 and "nothing was changed" in again.stderr
    hub.files["a.jsonl"] += b'{"prompt": "one more", "n": 5000}\n'
    changed = run("dataset:owner/rows?split=train")
    assert changed.returncode == 64 and "dataset:owner/rows" in changed.stderr


def test_what_was_counted_is_what_is_read_though_the_data_set_goes_on(run: Run, hub: Hub, tmp_path: Path) -> None:
    def change_once_it_is_counted() -> bool:
        if (tmp_path / "out" / ".runner" / "job.json").exists():
            hub.files["a.jsonl"] = LINES.replace(b'"n": ', b'"n": 1')
        return False

    hub.refuses = change_once_it_is_counted
    done = run("dataset:owner/rows")
    assert done.returncode == 0, done.stderr
    assert column(tmp_path, "n") == list(range(5000))


@pytest.mark.parametrize("path", ["hf://datasets/owner/rows/b.jsonl", "hf://datasets/owner/none/a.jsonl"])
def test_what_is_not_there_is_one_line(run: Run, path: str) -> None:
    refused = run(path)
    assert refused.returncode == 64
    assert refused.stderr == f"input.path='{path}' names no file there; check the spelling\n"


@pytest.mark.parametrize("path", ["hf://datasets/owner/rows/a.jsonl", "dataset:owner/rows"])
def test_a_hub_that_refuses_on_the_way_ends_the_run_in_order(run: Run, hub: Hub, tmp_path: Path, path: str) -> None:
    hub.refuses = (tmp_path / "out" / ".runner" / "job.json").exists
    stopped = run(path)
    assert stopped.returncode == 74
    assert f"input.path: {path} cannot be read on (" in stopped.stderr and "Traceback" not in stopped.stderr
    hub.refuses = lambda: False
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert column(tmp_path, "n") == list(range(5000))
