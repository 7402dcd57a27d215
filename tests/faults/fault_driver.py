"""Runs the tiny job in a process of its own: no engine, rows made from their ids, faults on order."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tiny_job import redone_of, result_of, tiny_spec

from runner.errors import RunnerError
from runner.output import Output, SampleKeys
from runner.output.disk import Disk
from runner.output.entries import encode
from runner.output.lock import FolderLock

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fault_driver"])
# pyarrow imports pandas at its first conversion: here, once in the fork server, rather than in every child.
encode([result_of(0)], tiny_spec().columns)


def drive(
    path: str,
    make_disk: Callable[..., Disk] = Disk,
    disk_arguments: dict[str, Any] | None = None,
    seed: int = 0,
    flush_every: int = 5,
    bypass_lock: bool = False,
    notes: str | None = None,
    **changes: Any,
) -> None:
    """Does what is left of the job and exits with the code that the runner would.

    Rows come in an order that hangs on ``seed``. Their ids go to a ``.log`` beside the folder (or at
    ``notes``) as they are generated ("g 7") and after each flush ("f 7"), so that the checker can see what was
    done twice.
    """
    if bypass_lock:
        FolderLock._try = lambda _: True  # type: ignore[method-assign]
    log = os.open(f"{notes or path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        _drive(path, make_disk(**disk_arguments or {}), log, random.Random(seed), flush_every, changes)
    except RunnerError as error:
        Path(f"{notes or path}.error").write_text(str(error))
        os._exit(int(error.exit_code))
    os._exit(0)


def _drive(path: str, disk: Disk, log: int, rng: random.Random, flush_every: int, changes: dict[str, Any]) -> None:
    with Output.open(path, tiny_spec(sync_seconds=0.02, max_open_ranges=3, **changes), disk) as output:
        waiting: list[int] = []
        redo: dict[int, SampleKeys] = {}
        unflushed: list[int] = []
        while True:
            while (item := output.take_range()) is not None:
                waiting += [row for row in range(item.start, item.stop) if row not in item.done]
                redo |= item.redo
            if not waiting:
                break
            row_id = waiting.pop(rng.randrange(len(waiting)))
            os.write(log, f"g {row_id}\n".encode())
            output.write(redone_of(row_id, redo[row_id]) if row_id in redo else result_of(row_id))
            unflushed.append(row_id)
            if len(unflushed) >= flush_every:
                output.flush()
                os.write(log, "".join(f"f {row}\n" for row in unflushed).encode())
                unflushed.clear()
        output.finish()


def start(path: Path, **options: Any) -> BaseProcess:
    """The job in a process that runs beside this one."""
    process = _CONTEXT.Process(target=drive, args=(str(path),), kwargs=options)
    process.start()
    return process


def run(path: Path, **options: Any) -> int:
    """The job in a process of its own, to its end; its exit code, or minus the signal that killed it."""
    process = start(path, **options)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
