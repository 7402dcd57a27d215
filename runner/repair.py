"""`python -m runner.repair DIR`: marks exactly the damaged ranges, so that the next run does them again."""

from __future__ import annotations

import logging
import sys

from runner.errors import ExitCode, RunnerError
from runner.output.reparation import repair
from runner.verify import log_report

_log = logging.getLogger("runner.repair")
_USAGE = "usage: python -m runner.repair DIR"


def main(arguments: list[str]) -> int:
    """0 when the folder is whole or was marked, 73 while a run is active, 64 for another folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if len(arguments) != 1:
        _log.error(_USAGE)
        return ExitCode.REFUSED
    try:
        report = repair(arguments[0])
    except RunnerError as error:
        _log.error(error)
        return error.exit_code
    log_report(report, _log)
    num_ranges = len({damage.index for damage in report.damages if damage.index is not None})
    if report.damages:
        _log.info("%d ranges are marked to be done again; run the job's command to go on", num_ranges)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
