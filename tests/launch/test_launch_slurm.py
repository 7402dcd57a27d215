"""The sbatch script, by its text and by what bash makes of it with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runner.cli.compose import compose
from runner.errors import ConfigError
from runner.launch.slurm_script import script, warning_seconds
from runner.launch.work import launch_arguments, prepare
from tests.run.commands import command, write_rows

GENERATE = ("job=generate", "input.path=rows.jsonl", "engine=echo", "launch=slurm")


def text_of(folder: Path, *arguments: str) -> str:
    given = [*GENERATE, f"output.dir={folder}/out", *arguments]
    return script(prepare(compose(given), given, folder))


def options_of(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_every_setting_becomes_its_option(tmp_path: Path) -> None:
    settings = (
        "array=32 max_running=8 time=4:00:00 gpus=2 cpus=6 memory=64G partition=a100 account=x sbatch=['--qos=low']"
    )
    options = options_of(text_of(tmp_path, *(f"launch.{setting}" for setting in settings.split())))
    wanted = "--array=0-31%8 --time=4:00:00 --gpus-per-task=2 --cpus-per-task=6 --mem=64G --partition=a100 --account=x"
    always = "--requeue --open-mode=append --signal=USR1@180"
    assert {*wanted.split(), *always.split(), "--qos=low"} <= set(options)


def test_a_task_gets_the_users_settings_and_none_of_the_launchers(tmp_path: Path) -> None:
    text = text_of(tmp_path, "launch.array=4", "launch.leases=false", "sampling.max_tokens=7", "output.overwrite=true")
    task = text.partition("srun")[2].partition("code=")[0]
    assert "sampling.max_tokens=7" in task
    assert '"partition=$SLURM_ARRAY_TASK_ID/4"' in task
    assert "overwrite" not in task
    assert "launch=" not in task


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [(None, 180), ("4:00:00", 180), ("1", 30), ("2:00", 60), ("0:01:30", 45), ("1-0", 180), ("0-0:04", 120)],
)
def test_a_short_limit_leaves_half_of_itself_to_work(limit: str | None, seconds: int) -> None:
    assert warning_seconds(limit) == seconds


WRONG_GPUS = ("-1", "00", "1.5", "1e9", "many", "a100:0", "a100:-1", "a 1", "1,", "1,a100:1", "")


@pytest.mark.parametrize("gpus", ["1", "16", "a100:2", "3g.20gb:1", "a100:1,h100:2"])
def test_gpus_are_asked_for_as_slurm_reads_them(tmp_path: Path, gpus: str) -> None:
    assert f"--gpus-per-task={gpus}" in options_of(text_of(tmp_path, f"launch.gpus='{gpus}'"))


@pytest.mark.parametrize("gpus", ["0", "auto"])
def test_no_gpus_are_not_asked_for(tmp_path: Path, gpus: str) -> None:
    assert not [option for option in options_of(text_of(tmp_path, f"launch.gpus={gpus}")) if "--gpus" in option]


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("launch.time=soon", "launch.time=soon"),
        ("launch.partition='a b'", "launch.partition=a b"),
        *((f"launch.gpus='{gpus}'", f"launch.gpus={gpus}: ") for gpus in WRONG_GPUS),
        ("launch.sbatch=[qos]", "launch.sbatch"),
        ("partition=1/4", "partition=1/4: launch=slurm divides the rows"),
    ],
)
def test_what_cannot_stand_in_the_script_is_refused(tmp_path: Path, argument: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        text_of(tmp_path, argument)


def test_only_the_users_own_brake_wins_over_the_scripts(tmp_path: Path) -> None:
    words = text_of(tmp_path, "resume.max_idle_attempts=9").partition("srun")[2].split()
    brakes = [word for word in words if word.startswith("resume.max_idle_attempts=")]
    assert brakes == ["resume.max_idle_attempts=3", "resume.max_idle_attempts=9"]  # Hydra takes the last


def run_script(tmp_path: Path, srun: str, *, has_begun: bool = True, end: str = "") -> tuple[int, list[str]]:
    """Exit code of the script and what it asked of scontrol, where ``srun`` is what its task does."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stand_ins = {"srun": srun, "scontrol": f'echo "$@" >> {tmp_path}/asked', "squeue": f"echo '{end}'"}
    for name, body in stand_ins.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    if has_begun:
        (tmp_path / "out" / ".runner" / "attempts").mkdir(parents=True)
    path = tmp_path / "job.sbatch"
    path.write_text(text_of(tmp_path))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    environment = {**os.environ, **slurm, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(path)], env=environment, capture_output=True, text=True, check=False)
    asked = tmp_path / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize("code", [75, 137])
def test_a_task_is_requeued_when_a_later_attempt_can_go_on(tmp_path: Path, code: int) -> None:
    # By task: 7 alone would requeue the whole array.
    assert run_script(tmp_path, f"exit {code}") == (code, ["requeue 7_2"])


@pytest.mark.parametrize("code", [0, 3, 64, 74])
def test_a_task_is_not_requeued_for_what_another_attempt_cannot_cure(tmp_path: Path, code: int) -> None:
    assert run_script(tmp_path, f"exit {code}") == (code, [])


def test_a_cancelled_task_is_not_requeued(tmp_path: Path) -> None:
    assert run_script(tmp_path, "kill -TERM $PPID; exit 75") == (75, [])


def test_a_task_that_died_before_it_made_the_folder_is_not_tried_again(tmp_path: Path) -> None:
    assert run_script(tmp_path, "exit 137", has_begun=False) == (137, [])


@pytest.mark.parametrize(("end", "seconds"), [("1970-01-02T00:00:00", "86400"), ("", ""), ("N/A", "")])
def test_a_task_is_told_when_it_ends(tmp_path: Path, monkeypatch, end: str, seconds: str) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    run_script(tmp_path, f'echo "${{SLURM_JOB_END_TIME:-}}" > {tmp_path}/told', end=end)
    assert (tmp_path / "told").read_text().strip() == seconds


def test_a_chain_takes_over_the_launcher_but_not_its_place(tmp_path: Path) -> None:
    given = ["job=a", "launch=slurm", "launch.array=2", "launch.after=5", "launch.chain=[x]", "seed=1"]
    assert launch_arguments(given) == ["launch=slurm", "launch.array=2"]


def test_dry_run_prints_the_script_and_makes_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    code, out, _ = command(tmp_path, *GENERATE, "launch.dry_run=true", "launch.array=3")
    assert code == 0
    assert out.startswith("#!/bin/bash\n#SBATCH")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_input_that_is_not_there_is_refused_at_once_unless_a_job_before_makes_it(tmp_path: Path) -> None:
    code, out, err = command(tmp_path, *GENERATE, "launch.dry_run=true")
    assert code == 64 and out == "" and "input.path='rows.jsonl' does not exist" in err
    assert command(tmp_path, *GENERATE, "launch.dry_run=true", "launch.after=7")[0] == 0


def test_a_chain_that_cannot_go_on_is_refused_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, 1)
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ntouch {tmp_path}/submitted\necho 7\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=os.pathsep)
    good, bad = "job=generate job.name=b input.path=x", "job=judge input.path=x"
    code, _, err = command(tmp_path, *GENERATE, f"launch.chain=['{good}','{bad}']")
    assert code == 64 and len(err.strip().splitlines()) == 1, err
    assert "job=judge: no such preset" in err and not (tmp_path / "submitted").exists()
    code, _, err = command(tmp_path, *GENERATE, f"launch.chain=['{good}']")
    assert code == 0 and err.count("as Slurm job 7") == 2, err
