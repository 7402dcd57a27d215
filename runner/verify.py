"""`python -m runner.verify DIR`: is every row there exactly once, as it was written?"""

from __future__ import annotations

import logging
import sys

from runner.cli.folder import main
from runner.errors import DamageError, ExitCode, StorageError
from runner.output.verification import Report, verify

_log = logging.getLogger("runner.verify")
_USAGE = """\
Checks an output folder from its files alone: every row exactly once, counts, SHA-256, schema, leftovers.

  python -m runner.verify DIR

Exit codes: 0 whole, 64 no output folder, 65 damaged (each damage is named), 73 a run is active,
74 nothing is damaged, but the disk did not give every file (each is named).
"""


def check(folder: str) -> int:
    """Names what is damaged. Raises RunnerError for another folder and while a run is active."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    report = verify(folder)
    log_report(report, _log)
    if report.damages:
        return DamageError.exit_code
    return StorageError.exit_code if report.unreadable else ExitCode.DONE


def log_report(report: Report, log: logging.Logger) -> None:
    for damage in report.damages:
        log.error("damaged: %s", damage)
    for unreadable in report.unreadable:
        log.error("unreadable: %s", unreadable)
    for note in report.notes:
        log.info("note: %s", note)
    totals = report.folder.totals()
    num_parts = sum(not commit.is_tombstone for commit in report.folder.commits.values())
    log.info(
        "%s: %d rows in %d parts, %d samples, %d damages%s",
        report.folder.layout.root,
        totals.rows,
        num_parts,
        totals.samples,
        len(report.damages),
        f", {len(report.unreadable)} files unreadable" if report.unreadable else "",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, check))
