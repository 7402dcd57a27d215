"""launch=slurm: an array of tasks, submitted with a script that a person can read and submit again."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from pathlib import Path

from runner.errors import ConfigError, ExitCode
from runner.input.files import expand
from runner.launch.slurm_script import script
from runner.launch.work import Work, launch_arguments
from runner.signals import StopFlag

logger = logging.getLogger(__name__)


def launch(work: Work, stop: StopFlag) -> ExitCode:
    """Writes the script beside the output and submits it, then the chain; with launch.dry_run only shows it."""
    if not work.settings.after:  # else the job before may be what makes the input
        expand(work.config.input.path, work.folder)  # what is not there is not to be found out from a queue
    text = script(work)
    if work.settings.dry_run:
        sys.stdout.write(text)
        job_id = "JOB_ID"
    else:
        _check_chain(work)
        path = work.make_files() / f"{work.file_name}.sbatch"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        job_id = _submit(path)
        _explain(work, path, job_id)
    return _submit_chain(work, job_id)


def _check_chain(work: Work) -> None:
    """Refuses a later line of the chain while nothing is submitted yet."""
    if not work.settings.chain:
        return
    command = [*_chain_command(work, "JOB_ID"), "launch.dry_run=true"]
    done = subprocess.run(command, cwd=work.directory, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"launch.chain: {reason} (nothing was submitted)")


def _submit(path: Path) -> str:
    try:
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError(
            "launch=slurm: there is no sbatch here; submit from a login node, or launch.dry_run=true prints the script"
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigError(f"launch=slurm: sbatch refused {path}: {reason}")
    return done.stdout.strip().partition(";")[0]


def _explain(work: Work, path: Path, job_id: str) -> None:
    logger.info("submitted %s as Slurm job %s (%d tasks)", path, job_id, work.settings.array)
    logger.info("follow it: %s -m runner.status %s", sys.executable, shlex.quote(str(work.folder)))
    logger.info("its tasks: squeue -j %s; its logs: %s", job_id, work.files / f"slurm-{job_id}_*.log")
    logger.info("stop it: scancel %s; what is done stays, the same command continues it", job_id)


def _submit_chain(work: Work, job_id: str) -> ExitCode:
    """The next command line of the chain, as a user would give it, to begin once ``job_id`` has ended well."""
    if not work.settings.chain:
        return ExitCode.DONE
    return ExitCode(subprocess.run(_chain_command(work, job_id), cwd=work.directory, check=False).returncode)


def _chain_command(work: Work, job_id: str) -> list[str]:
    first, *rest = work.settings.chain
    # A command line of its own wins over what it takes from this one: Hydra takes the last.
    words = [*launch_arguments(work.given), *shlex.split(first), f"launch.after={job_id}"]
    if rest:
        words.append("launch.chain=[" + ",".join(_string(line) for line in rest) + "]")
    return [sys.executable, "-m", "runner", *words]


def _string(value: str) -> str:
    """A string inside a list on the command line."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
