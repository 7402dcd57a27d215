"""The sbatch script of a job: what Slurm is asked for, one task, and what becomes of it when it ends early."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from runner.errors import ConfigError
from runner.launch.work import Work

WARNING_SECONDS = 180  # before the time limit: USR1 drains for 10, the rest is for a slow disk and Slurm's own slack
MAX_IDLE_ATTEMPTS = 3
_TYPED = r"[^\s:,]+:[1-9][0-9]*"
_GPUS = re.compile(rf"auto|0|[1-9][0-9]*|{_TYPED}(?:,{_TYPED})*")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
ROOT = Path(__file__).resolve().parents[2]

_BODY = """\
set -u
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}
output={folder}
task=$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID
cd {directory} || exit 1
{setup}
# scancel and preemption send TERM to this shell too: then nothing is requeued from here.
cancelled=
trap 'cancelled=yes' TERM

# Rows that cannot be done before the task's end are not begun. Newer Slurms say by themselves when that is.
self="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
if [ -z "${{SLURM_JOB_END_TIME:-}}" ]; then
    end=$(squeue --noheader --format=%e --jobs="$self")
    [ -z "$end" ] || export SLURM_JOB_END_TIME=$(date --date="$end" +%s)
fi

srun --kill-on-bad-exit=1 {command}
code=$?

# 75 is a stop in good order (its time is up), over 128 a task that was killed. Both go on in a later attempt, which
# resume.max_idle_attempts ends if nothing comes of it; one that did not even leave its name there is not tried again.
if [ -z "$cancelled" ] && {{ [ $code -eq 75 ] || [ $code -gt 128 ]; }} && [ -d "$output/.runner/attempts" ]; then
    echo "exit code $code: requeued" >&2
    # Not by SLURM_JOB_ID: one task has the array's own, which would requeue them all.
    scontrol requeue "$self"
fi
exit $code
"""


def script(work: Work) -> str:
    """The whole script. Raises ConfigError for a setting that cannot stand in it."""
    _check(work)
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(work)), *_comment(work)]
    return "\n".join(lines) + "\n" + _body(work)


def _options(work: Work) -> Iterator[str]:
    settings = work.settings
    limit = f"%{settings.max_running}" if settings.max_running else ""
    yield f"--job-name={work.file_name}"
    yield f"--array=0-{settings.array - 1}{limit}"
    yield "--ntasks=1"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--signal=USR1@{warning_seconds(settings.time)}"
    yield f'--output="{work.files}/slurm-%A_%a.log"'
    if settings.time:
        yield f"--time={settings.time}"
    if settings.gpus not in ("0", "auto"):
        yield f"--gpus-per-task={settings.gpus}"
    if settings.cpus:
        yield f"--cpus-per-task={settings.cpus}"
    for option, value in (("mem", settings.memory), ("partition", settings.partition), ("account", settings.account)):
        if value:
            yield f"--{option}={value}"
    if settings.after:
        yield f"--dependency=afterok:{settings.after}"
        yield "--kill-on-invalid-dep=yes"
    yield from settings.sbatch


def warning_seconds(limit: str | None) -> int:
    """How long before the time limit a task is told; never more than half of a short limit."""
    match = _TIME.fullmatch(limit or "")
    if match is None:
        return WARNING_SECONDS
    days, *parts = (int(part) if part else None for part in match.groups())
    given = [part for part in parts if part is not None]
    # Slurm's forms: M, M:S, H:M:S, and with days D-H, D-H:M, D-H:M:S.
    units = (3600, 60, 1) if days is not None or len(given) == 3 else (60, 1)
    seconds = (days or 0) * 86400 + sum(part * unit for part, unit in zip(given, units, strict=False))
    return min(WARNING_SECONDS, seconds // 2)


def _comment(work: Work) -> list[str]:
    return [
        "",
        f"# {settings_line(work)}",
        "# The tasks share one folder; submit this script again to go on, at any time.",
    ]


def settings_line(work: Work) -> str:
    number = work.settings.array
    return f"{work.name}: {number} task{'s' * (number > 1)} of python -m runner on {work.folder}"


def _body(work: Work) -> str:
    partition = work.partition("$SLURM_ARRAY_TASK_ID", work.settings.array)
    python, *module = work.command(partition, "$task")
    module[2:2] = [f"resume.max_idle_attempts={MAX_IDLE_ATTEMPTS}"]  # before the user's own: the last one holds
    words = [_expanding(shlex.quote(word)) for word in (python, *module)]
    return _BODY.format(
        root=shlex.quote(str(ROOT)),
        folder=shlex.quote(str(work.folder)),
        directory=shlex.quote(str(work.directory)),
        setup="".join(f"{line}\n" for line in work.settings.setup),
        command=" \\\n    ".join([" ".join(words[:3]), *words[3:]]),
    )


def _expanding(word: str) -> str:
    """Lets the shell put in its own variables, which only this file uses."""
    for name in ("$SLURM_ARRAY_TASK_ID", "$task"):
        if name in word and word.startswith(("'partition=", "'launch.task=")):
            return f'"{word[1:-1]}"'
    return word


def _check(work: Work) -> None:
    settings = work.settings
    if settings.time and not _TIME.fullmatch(settings.time):
        raise ConfigError(f"launch.time={settings.time}: not a time; write hours as 4:00:00, days as 2-00:00:00")
    if not _GPUS.fullmatch(settings.gpus):
        raise ConfigError(f"launch.gpus={settings.gpus}: give the GPUs of each task, as 1 or a100:2, or 0 for none")
    for key in ("memory", "partition", "account", "after"):
        value = getattr(settings, key)
        if value and re.search(r"\s", value):
            raise ConfigError(f"launch.{key}={value}: a blank in it would end the #SBATCH option; write it without")
    for option in settings.sbatch:
        if not option.startswith("-") or "\n" in option:
            raise ConfigError(f"launch.sbatch: {option!r} is no option; write it as --name=value")
