"""What a run says at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from runner.report.plain import one_line

logger = logging.getLogger(__name__)

_SHOWN_CODES = 10
_TOLD = {"dropped", "requests"}  # of rendering: the summary has the job's, and requests are what was asked for


class Totals(Protocol):
    """Sums over the finished rows of a job."""

    rows: int
    samples: int
    failed_rows: int
    failed_samples: int
    dropped: int
    prompt_tokens: int
    completion_tokens: int
    errors: dict[str, int]


def log_summary(folder: Path, totals: Totals, load_line: str, *, is_complete: bool) -> None:
    """Where the data is, what is in it, and the line of Python that loads it."""
    logger.info("data: %s", folder.resolve() / "data")
    logger.info(
        "%d rows: %d samples, %d prompt tokens, %d completion tokens",
        totals.rows,
        totals.samples,
        totals.prompt_tokens,
        totals.completion_tokens,
    )
    if totals.dropped:
        logger.info("the job dropped %d samples", totals.dropped)
    if totals.failed_rows:
        rows = "1 row has" if totals.failed_rows == 1 else f"{totals.failed_rows} rows have"
        logger.warning("%s errors (%s): %s", rows, top_codes(totals.errors), folder.resolve() / "errors")
    if not is_complete:
        logger.info("other partitions of this job are not done yet")
    if totals.samples:
        logger.info("load it: %s", load_line)
    else:  # datasets refuses a folder without a single row
        reason = "no row has an answer" if totals.rows or not is_complete else "the input has no rows; see input.path"
        logger.warning("there is nothing to load: %s", reason)


def top_codes(codes: Mapping[str, int]) -> str:
    """The most frequent ones; a job may make its codes out of anything."""
    found = sorted(codes.items(), key=lambda item: -item[1])
    parts = [f"{one_line(code)} {count}" for code, count in found[:_SHOWN_CODES]]
    return ", ".join([*parts, *([f"{len(found) - len(parts)} more codes"] if len(found) > len(parts) else [])])


def log_run(completion_tokens: int, seconds: float, counts: Mapping[str, int]) -> None:
    """The speed of this run and what rendering accepted but a user may want to know."""
    rate = completion_tokens / seconds if seconds > 0 else 0.0
    logger.info("this run: %d completion tokens in %.1f s, %.0f a second", completion_tokens, seconds, rate)
    for name, count in counts.items():
        if count and name not in _TOLD:
            logger.info("%s: %d", name.replace("_", " "), count)
