"""`python -m runner.repair DIR`: marks exactly the damaged ranges, so that the next run does them again."""

from __future__ import annotations

import logging
import sys

from runner.cli.folder import main
from runner.errors import ExitCode
from runner.output.reparation import repair
from runner.verify import log_report

_log = logging.getLogger("runner.repair")
_USAGE = """\
Marks exactly the damaged ranges of an output folder, so that the job's command does them again; good ones stay.

  python -m runner.repair DIR

Exit codes: 0 whole or marked, 64 no output folder, 73 a run is active,
74 the disk does not give a file: nothing was marked.
"""


def mark(folder: str) -> int:
    """Names and marks what is damaged. Raises RunnerError for another folder and while a run is active."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    report = repair(folder)
    log_report(report, _log)
    num_ranges = len({damage.index for damage in report.damages if damage.index is not None})
    if report.damages:
        _log.info("%d ranges are marked to be done again; run the job's command to go on", num_ranges)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, mark))
