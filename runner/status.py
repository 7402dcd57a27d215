"""`python -m runner.status DIR`: every partition of a job, while it runs and after."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from runner.cli.folder import main
from runner.errors import ExitCode
from runner.output import Attempt, Survey, Surveyor
from runner.report.plain import one_line
from runner.report.progress import duration

_USAGE = """\
Shows how far a job is, and each of its partitions: rows, rate, last sign of life, time left. While it runs and after.

  python -m runner.status DIR

Exit codes: 0 shown, 64 a folder without a job, 65 a damaged record.
"""
_HEAD = ("partition", "task", "process", "state", "rows", "rate", "last sign", "ETA")


def status(folder: str) -> int:
    """Prints the job and its partitions. Raises RunnerError for a folder without a job or with a damaged record."""
    sys.stdout.write("\n".join(describe(Surveyor(folder).look(), time.time())) + "\n")
    return ExitCode.DONE


def describe(survey: Survey, now: float) -> Iterator[str]:
    """The job in one line, then a table of its partitions; ``now`` in seconds since the epoch."""
    yield summary(survey)
    rows = [_HEAD, *(_cells(survey, attempt, now) for attempt in shown(survey))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def summary(survey: Survey) -> str:
    """How far the whole job is, at the rate of what runs now."""
    share = survey.rows / survey.num_rows if survey.num_rows else 1.0
    parts = [f"{one_line(survey.job.name)}: {survey.rows:,} of {survey.num_rows:,} rows ({share:.0%})"]
    if survey.totals.failed_rows:
        parts.append(f"{survey.totals.failed_rows:,} failed")
    if survey.is_done:
        return ", ".join([*parts, "done"])
    running = [attempt for attempt in survey.attempts if attempt.is_running]
    rate = sum(attempt.rate for attempt in running)
    parts += [f"{len(running)} running", f"{rate:,.1f} rows/s"]
    if rate:
        parts.append(f"ETA {duration((survey.num_rows - survey.rows) / rate)}")
    return ", ".join(parts)


def shown(survey: Survey) -> list[Attempt]:
    """The newest attempt of each fixed partition, and of the leasing ones those that run or did something.

    Until the job is done also the newest of each task: it may have died before it did.
    """
    newest = {attempt.partition: attempt for attempt in survey.attempts if attempt.partition in survey.shares}
    last = {} if survey.is_done else {attempt.task: attempt.number for attempt in survey.attempts}
    leasing = [
        attempt
        for attempt in survey.attempts
        if attempt.partition not in survey.shares
        and (attempt.is_running or attempt.has_progress or attempt.number == last.get(attempt.task))
    ]
    return [*sorted(newest.values(), key=lambda attempt: _place(attempt.partition)), *leasing]


def _place(partition: str) -> tuple[int, int]:
    worker, workers = map(int, partition.split("/"))
    return workers, worker


def _cells(survey: Survey, attempt: Attempt, now: float) -> tuple[str, ...]:
    done, num_rows = survey.shares.get(attempt.partition, (attempt.rows, None))
    left = None if num_rows is None else num_rows - done
    return (
        attempt.partition,
        one_line(attempt.task or "-"),
        one_line(f"{attempt.host}:{attempt.pid}"),
        _state(attempt, left, survey.is_done),
        f"{done:,}" if num_rows is None else f"{done:,}/{num_rows:,}",
        f"{attempt.rate:,.1f}/s",
        f"{duration(max(now - attempt.last_seen, 0.0))} ago",
        duration(left / attempt.rate) if attempt.is_running and left and attempt.rate else "-",
    )


def _state(attempt: Attempt, left: int | None, is_done: bool) -> str:
    if attempt.is_running:
        return "running"
    return "done" if is_done or left == 0 else "stopped"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, status))
