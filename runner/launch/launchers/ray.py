"""launch=ray: each task is a Ray task with GPUs of its own; Ray places it and tries it again."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, ExitCode
from runner.launch.view import View
from runner.launch.work import Work
from runner.signals import StopFlag

logger = logging.getLogger(__name__)

_RETRIES = 3
_POLL_SECONDS = 0.5
_GPUS = re.compile(r"auto|[0-9]+|0?\.[0-9]+")  # Ray shares one card among tasks, and gives several whole
ROOT = Path(__file__).resolve().parents[3]


def launch(work: Work, stop: StopFlag) -> ExitCode:
    """Runs launch.array tasks on the cluster of RAY_ADDRESS, or on this machine, to their ends.

    The folder and this program must lie where every node finds them. Raises ConfigError without Ray, and where no
    task would ever begin.
    """
    commands, needs = _commands(work), _needs(work)
    if work.settings.dry_run:
        sys.stdout.write("".join(" ".join(command) + "\n" for command in commands))
        return ExitCode.DONE
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise ConfigError("launch=ray: Ray is not installed; pip install 'batch-runner[ray]'") from None
    # Without an address Ray starts on this machine, as RAY_ADDRESS it joins a cluster.
    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    stop.install()  # Ray puts handlers of its own in their place, which end this process
    try:
        _check_room(ray.cluster_resources(), needs, can_grow="RAY_ADDRESS" in os.environ)
        return _run(ray, work, commands, needs, stop)
    finally:
        ray.shutdown()


def _commands(work: Work) -> list[list[str]]:
    count = work.settings.array
    return [work.command(work.partition(number, count), f"ray-{number}") for number in range(count)]


def _needs(work: Work) -> dict[str, float]:
    """What one task asks Ray for. Raises ConfigError for a number of GPUs that Ray does not take."""
    settings = work.settings
    if not _GPUS.fullmatch(settings.gpus):
        raise ConfigError(f"launch.gpus={settings.gpus}: give the GPUs of each task, as 2 or 0.5, or 0 for none")
    gpus = {} if settings.gpus == "auto" else {"gpus": float(settings.gpus)}
    return {"cpus": float(settings.cpus or 1), **gpus}


def _check_room(resources: Mapping[str, float], needs: Mapping[str, float], *, can_grow: bool) -> None:
    """Ray lets a task wait for ever for what no node has. A Ray of this machine has all that it will have."""
    for key, count in needs.items():
        there = resources.get(key.upper()[:-1], 0.0)
        if there >= count:
            continue
        reason = f"launch.{key}={count:g}: Ray has {there:g} of them, and a task would wait; ask for fewer"
        if not can_grow:
            raise ConfigError(reason)
        logger.warning("%s, unless the cluster grows", reason)


def _run(ray: Any, work: Work, commands: list[list[str]], needs: Mapping[str, float], stop: StopFlag) -> ExitCode:
    asked = {f"num_{key}": count for key, count in needs.items()}
    task = ray.remote(max_retries=_RETRIES, retry_exceptions=[TaskFailed], **asked)(run_task)
    logs = work.make_files()
    pending = [
        task.remote(command, str(work.directory), str(logs / f"ray-{number}.log"))
        for number, command in enumerate(commands)
    ]
    logger.info("%d Ray tasks; their logs: %s", len(pending), logs / "ray-*.log")
    codes = _gather(ray, pending, View(work.folder), stop)
    if (work.folder / "_SUCCESS").exists():
        logger.info("done: %s", work.folder / "data")
        return ExitCode.DONE
    if stop.requested:
        return ExitCode.STOPPED
    return next((ExitCode(code) for code in codes if code and code in set(ExitCode)), ExitCode.BUG)


def _gather(ray: Any, pending: list[Any], view: View, stop: StopFlag) -> list[int]:
    """The exit codes of the tasks as they end; a stop is passed on once, and their rows stay."""
    codes: list[int] = []
    cancelled = False
    while pending:
        if stop.requested and not cancelled:
            stop.disarm()
            cancelled = True
            for reference in pending:
                ray.cancel(reference)
        ended, pending = ray.wait(pending, timeout=_POLL_SECONDS)
        for reference in ended:
            codes.append(_code(ray, reference))
        view.show()
    view.close()
    return codes


def _code(ray: Any, reference: Any) -> int:
    try:
        return int(ray.get(reference))
    except (ray.exceptions.RayError, TaskFailed) as error:
        logger.warning("a task is given up: %s", str(error).strip().splitlines()[-1])
        return int(ExitCode.STOPPED)


class TaskFailed(Exception):  # noqa: N818 - for Ray: try again
    """The process of a task was killed."""


def run_task(command: list[str], directory: str, log: str) -> int:
    """On a node of Ray's: the process of one task, ended with this worker. Returns its exit code."""
    import ctypes
    import signal

    def end_with_worker() -> None:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with Path(log).open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=end_with_worker,
        )
        try:
            while process.poll() is None:
                time.sleep(_POLL_SECONDS)
        finally:  # Ray cancels by an exception here
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode < 0:
        raise TaskFailed(f"{command[-1]} was ended by signal {-process.returncode}")
    return process.returncode
