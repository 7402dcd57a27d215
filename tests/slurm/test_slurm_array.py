"""Arrays under a real Slurm: cancelled, killed and out of time, they leave what one process makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from tests.launch.fleet import SLOW, prepare, process_of
from tests.run.commands import ROOT, command, digests, write_rows
from tests.slurm.cluster import Cluster
from tests.tiny_models import save_tiny_model

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}
LAUNCH = ("launch=slurm", "launch.gpus=0", "output.dir=out")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def submit(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """The Slurm job's number, as the launcher says it."""
    environment = {**cluster.environment(), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.partition("Slurm job ")[2].split()[0]


def wait_for_parts(cluster: Cluster, folder: Path, num_parts: int) -> None:
    cluster.wait(lambda: len(list(folder.glob(".runner/commits/*.json"))) >= num_parts, 120, f"{num_parts} parts")


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(".runner/launch/*.log")))


def test_an_array_survives_scancel_a_kill_and_the_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    whole = prepare(tmp_path, 360, seconds=0.3)
    out = tmp_path / "out"
    job = submit(cluster, tmp_path, *SLOW, *LAUNCH, "launch.array=4", "launch.time=5:00")
    wait_for_parts(cluster, out, 4)
    cluster.call("scancel", f"{job}_0")
    os.kill(process_of(f"{job}-1"), signal.SIGKILL)
    cluster.call("scontrol", "update", f"JobId={job}_2", "TimeLimit=1")
    cluster.wait(lambda: set(cluster.states(job).values()) <= ENDED, 300, "the array's end")
    assert cluster.states(job) == {0: "CANCELLED", 1: "COMPLETED", 2: "COMPLETED", 3: "COMPLETED"}, logs(out)
    assert [cluster.restarts(job, task) for task in (0, 1, 2, 3)] == [0, 1, 1, 0]
    assert digests(out) == whole
    assert (out / "_SUCCESS").exists()


def test_three_attempts_without_progress_are_the_last(cluster: Cluster, tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    (tmp_path / "bad.py").write_text("import os\n\ndef prompt(row):\n    os.kill(os.getpid(), 9)\n")
    job = submit(
        cluster, tmp_path, "job=generate", "input.path=rows.jsonl", "engine=echo", "job.module=bad.py", *LAUNCH
    )
    cluster.wait(lambda: set(cluster.states(job).values()) <= ENDED, 200, "the brake")
    assert cluster.states(job) == {0: "FAILED"}
    assert cluster.restarts(job, 0) == 3
    assert "the last 3 attempts" in logs(tmp_path / "out")


def test_a_task_ends_by_itself_when_no_further_row_fits_and_goes_on_later(cluster: Cluster, tmp_path: Path) -> None:
    """Rows come back after 14 s, with their batch of 40; of the two minutes one is used. No signal comes before."""
    whole = prepare(tmp_path, 200, seconds=0.35)
    job = submit(cluster, tmp_path, *SLOW, *LAUNCH, "launch.time=2", "launch.sbatch=['--signal=USR1@1']")
    cluster.wait(lambda: set(cluster.states(job).values()) <= ENDED, 300, "the task's end")
    assert cluster.states(job) == {0: "COMPLETED"}, logs(tmp_path / "out")
    assert cluster.restarts(job, 0) == 1
    assert "no further rows are begun" in logs(tmp_path / "out")
    assert digests(tmp_path / "out") == whole


def test_a_chain_generates_then_judges(cluster: Cluster, tmp_path: Path) -> None:
    prepare(tmp_path, 40, seconds=0.05)
    judge = "job=generate job.name=judge engine=echo input.path=out/data/*.arrow input.prompt_column=completion "
    judge += "output.dir=judged output.column_prefix=judge_"
    job = submit(cluster, tmp_path, *SLOW, *LAUNCH, "launch.array=2", f"launch.chain=['{judge}']")
    cluster.wait((tmp_path / "judged" / "_SUCCESS").exists, 120, "the second job")
    assert set(cluster.states(job).values()) == {"COMPLETED"}
    assert (tmp_path / "out" / "_SUCCESS").stat().st_mtime < (tmp_path / "judged" / "_SUCCESS").stat().st_mtime
    rows = pads.dataset(tmp_path / "judged" / "data", format="ipc").to_table().to_pylist()
    assert sorted(row["n"] for row in rows) == list(range(40))
    # The stand-in answers with its prompt: of the judge that is what was generated.
    assert all(row["completion"] in row["judge_completion"] for row in rows)
    assert all(row["completion"] != row["judge_completion"] for row in rows)


def test_a_real_model_in_an_array_says_what_it_says_alone(cluster: Cluster, tmp_path: Path) -> None:
    write_rows(tmp_path, 12)
    save_tiny_model(tmp_path / "model")
    real = ("job=generate", "input.path=rows.jsonl", "model.path=model", "output.rows_per_shard=3")
    small = ("sampling.max_tokens=8", "engine.cpu_kv_cache_gib=0.1", "job.chat=false", "engine.max_num_seqs=4")
    code, _, err = command(tmp_path, *real, *small, "output.dir=whole")
    assert code == 0, err
    job = submit(cluster, tmp_path, *real, *small, *LAUNCH, "launch.array=2")
    cluster.wait(lambda: set(cluster.states(job).values()) <= ENDED, 240, "the array's end")
    assert set(cluster.states(job).values()) == {"COMPLETED"}, logs(tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
