"""Attempts: each run on a folder has a number of its own, and a marker that says whose it is."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from runner.errors import StalledError
from runner.output.folder import Folder
from runner.output.layout import journal_key

_BRAKED = "braked"  # set in the markers of a loop's attempts, and once more when the loop was stopped
_STOPPED = "stopped"


def new_attempt(
    folder: Folder, partition: tuple[int, int] | None, task: str = "", max_idle_attempts: int | None = None
) -> int:
    """A number that no earlier attempt on this folder had: whatever this one writes is named by it.

    Its marker is not synced: a power cut that takes it takes the attempt too, and what that wrote is counted.
    With ``max_idle_attempts``, raises `StalledError` once so many attempts of a loop have finished no row. The
    next one counts anew: whoever starts it has seen to the cause.
    """
    marker: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "partition": shown(partition),
        "task": task,
        "rerun": rerun_name(folder),
        _BRAKED: max_idle_attempts is not None,
    }
    if max_idle_attempts is None or _idle_attempts(folder, marker) < max_idle_attempts:
        return _claim(folder, marker)
    _claim(folder, {**marker, _STOPPED: True})
    raise StalledError(
        f"resume.max_idle_attempts={max_idle_attempts}: the last {max_idle_attempts} attempts on "
        f"{folder.layout.root} finished no row; see what they logged, then start again"
    )


def _claim(folder: Folder, marker: dict[str, Any]) -> int:
    disk, layout = folder.disk, folder.layout
    used = [0, *(commit.attempt for commit in folder.commits.values())]
    used += [int(name.partition(".")[0]) for name in disk.names(layout.attempts)]
    used += [int(name) for name in disk.names(layout.stage)]
    used += [key[0] for name in disk.names(layout.journals) if (key := journal_key(name))]
    number = max(used) + 1
    while not disk.claim(layout.attempt(number), json.dumps(marker).encode()):
        number += 1
    return number


def _idle_attempts(folder: Folder, mine: dict[str, Any]) -> int:
    """How many of the latest attempts of the same loop left neither a commit nor a journal."""
    disk, layout = folder.disk, folder.layout
    fruitful = {commit.attempt for commit in folder.commits.values()}
    fruitful |= {key[0] for name in disk.names(layout.journals) if (key := journal_key(name))}
    count = 0
    for name in reversed(disk.names(layout.attempts)):
        number = int(name.partition(".")[0])
        marker = _marker(folder, number)
        if (marker.get("partition"), marker.get("task")) != (mine["partition"], mine["task"]):
            continue
        if number in fruitful or not marker.get(_BRAKED) or marker.get(_STOPPED):
            break
        count += 1
    return count


def work_of(folder: Folder, attempt: int) -> tuple[str | None, str | None]:
    """The partition and the rerun that an attempt worked on; None where a power cut took its marker."""
    marker = _marker(folder, attempt)
    return marker.get("partition"), marker.get("rerun")


def _marker(folder: Folder, attempt: int) -> dict[str, Any]:
    data = folder.disk.read_if_there(folder.layout.attempt(attempt))
    try:
        marker = json.loads(data or b"{}")
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def rerun_name(folder: Folder) -> str:
    return folder.rerun.name if folder.rerun else ""


def shown(partition: tuple[int, int] | None) -> str:
    return "auto" if partition is None else f"{partition[0]}/{partition[1]}"
