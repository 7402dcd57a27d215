"""`python -m runner.verify DIR`: is every row there exactly once, as it was written?"""

from __future__ import annotations

import logging
import sys

from runner.errors import DamageError, ExitCode, RunnerError
from runner.output.verification import Report, verify

_log = logging.getLogger("runner.verify")
_USAGE = "usage: python -m runner.verify DIR"


def main(arguments: list[str]) -> int:
    """0 when the folder is whole, 65 with each damage named, 73 while a run is active, 64 for another folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if len(arguments) != 1:
        _log.error(_USAGE)
        return ExitCode.REFUSED
    try:
        report = verify(arguments[0])
    except RunnerError as error:
        _log.error(error)
        return error.exit_code
    log_report(report, _log)
    return DamageError.exit_code if report.damages else ExitCode.DONE


def log_report(report: Report, log: logging.Logger) -> None:
    for damage in report.damages:
        log.error("damaged: %s", damage)
    for note in report.notes:
        log.info("note: %s", note)
    totals = report.folder.totals()
    num_parts = sum(not commit.is_tombstone for commit in report.folder.commits.values())
    log.info(
        "%s: %d rows in %d parts, %d samples, %d damages",
        report.folder.layout.root,
        totals.rows,
        num_parts,
        totals.samples,
        len(report.damages),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
