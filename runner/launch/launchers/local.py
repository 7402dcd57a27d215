"""launch=local: one process for each GPU of this machine, and one view over all of them."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runner.config import Device, EngineKind
from runner.errors import ConfigError, ExitCode
from runner.launch.cards import visible_cards
from runner.launch.view import View
from runner.launch.work import Work
from runner.output import recorded_job
from runner.signals import STOP_SIGNALS, Stop, StopFlag

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_SIGNALS = {Stop.DRAIN: signal.SIGINT, Stop.BRIEF: signal.SIGUSR1, Stop.NOW: signal.SIGTERM}
_WORST_FIRST = (
    ExitCode.BUG,
    ExitCode.REFUSED,
    ExitCode.DAMAGED,
    ExitCode.IO,
    ExitCode.LOCKED,
    ExitCode.ERROR_BUDGET,
    ExitCode.STOPPED,
)


@dataclass
class Worker:
    """One process; ``code`` is None while it runs."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    code: int | None = None


def launch(work: Work, stop: StopFlag) -> ExitCode:
    """Runs the processes to their ends. Done when the whole job is, whoever of them did it."""
    cards = _cards(work)
    if work.settings.dry_run:
        for number in range(len(cards)):
            sys.stdout.write(" ".join(work.command(work.partition(number, len(cards)), f"local-{number}")) + "\n")
        return ExitCode.DONE
    workers = [_start(work, number, len(cards), card) for number, card in enumerate(cards)]
    logger.info("processes: %d, %s; their logs: %s", len(workers), _on(cards), work.files / "local-*.log")
    try:
        watch(work, workers, stop)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
    return _outcome(work, workers)


def _cards(work: Work) -> list[str | None]:
    """The card of each process; None leaves it without one."""
    wanted, cards = work.settings.gpus, visible_cards()
    needs_none = work.config.engine.kind is EngineKind.echo or work.config.model.device is Device.cpu
    if wanted == "auto":
        return [None] if needs_none or not cards else list(cards)
    if not re.fullmatch("[1-9][0-9]*", wanted):
        raise ConfigError(f"launch.gpus={wanted}: give a number of processes, or auto for one a GPU")
    if needs_none or not cards:
        return [None] * int(wanted)
    if int(wanted) > len(cards):
        raise ConfigError(
            f"launch.gpus={wanted}: this machine shows {len(cards)} GPUs; launch.gpus=auto takes them all"
        )
    return list(cards[: int(wanted)])


def _on(cards: list[str | None]) -> str:
    named = [card for card in cards if card is not None]
    return f"one each on card {', '.join(named)}" if named else "without a GPU"


def _start(work: Work, number: int, num_workers: int, card: str | None) -> Worker:
    log = work.make_files() / f"local-{number}.log"
    threads = str(max(1, len(os.sched_getaffinity(0)) // num_workers))
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    if card is not None:
        environment["CUDA_VISIBLE_DEVICES"] = card
    command = work.command(work.partition(number, num_workers), f"local-{number}")
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=work.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # a Ctrl-C at the terminal comes through this process, once
            preexec_fn=_before_exec,
        )
    return Worker(number, process, log)


def _before_exec() -> None:
    """The kernel ends this process when the launcher dies; what it has journalled stays.

    A stop waits until the process has its handlers: without them it would be killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def watch(work: Work, workers: list[Worker], stop: StopFlag) -> None:
    """Until all have ended; passes on a stop as its signal, once for each level."""
    view, told = View(work.folder), Stop.NONE
    try:
        while any(worker.code is None for worker in workers):
            if stop.level > told:
                told = stop.level
                stop.disarm()  # the processes keep the promise of an early exit themselves
                _signal_all(workers, _SIGNALS[told])
            _reap(workers)
            view.show()
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        _signal_all(workers, signal.SIGTERM)
        raise
    finally:
        view.close()


def _signal_all(workers: list[Worker], number: signal.Signals) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)


def _reap(workers: list[Worker]) -> None:
    """Takes note of processes that have ended; one that failed is named at once, and the others go on."""
    for worker in workers:
        if worker.code is not None or worker.process.poll() is None:
            continue
        worker.code = worker.process.returncode
        if worker.code not in (ExitCode.DONE, ExitCode.STOPPED):
            logger.warning("process %d %s: %s", worker.number, _end(worker.code), _last_line(worker.log))


def _end(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _last_line(path: Path) -> str:
    """What a process said last; its log may be gone with the folder."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1]} ({path})" if lines else str(path)


def _outcome(work: Work, workers: list[Worker]) -> ExitCode:
    codes = Counter(worker.code for worker in workers)
    if (work.folder / "_SUCCESS").exists() and ExitCode.DONE in codes:
        logger.info("done: %s", work.folder / "data")
        return ExitCode.DONE
    if recorded_job(work.folder) is not None:
        logger.info("not done; run the same command again to continue")
    for code in _WORST_FIRST:
        if code in codes:
            return code
    # What a signal has ended goes on in the same command, as what was stopped does.
    return ExitCode.BUG if any(code and code > 0 for code in codes) else ExitCode.STOPPED
