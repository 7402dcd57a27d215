"""`python -m runner.launch.brake DIR TASK`: may a task that ended early be tried again?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runner.errors import ConfigError, ExitCode, RunnerError
from runner.output import Surveyor

MAX_TRIES = 3
_USAGE = "usage: python -m runner.launch.brake DIR TASK\n"


def main(arguments: list[str]) -> int:
    """0 to try again; 1 when the last three attempts of the task have come to nothing."""
    if len(arguments) != 2:
        sys.stderr.write(_USAGE)
        return ExitCode.REFUSED
    folder, task = Path(arguments[0]), arguments[1]
    try:
        tries = count_try(folder, task)
    except RunnerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if tries < MAX_TRIES:
        return ExitCode.DONE
    sys.stderr.write(f"task {task}: {tries} attempts without progress; see what they logged, then submit again\n")
    return ExitCode.BUG


def count_try(folder: Path, task: str) -> int:
    """Counts an attempt that has ended; returns how many in a row, it included, have come to nothing.

    An attempt that died before it could leave its name in the folder counts as well.
    """
    path = folder / ".runner" / "launch" / f"tries-{task}.json"
    record = json.loads(path.read_text()) if path.exists() else {"fruitful": 0, "tries": 0}
    fruitful = _fruitful(folder, task)
    tries = 0 if fruitful > record["fruitful"] else record["tries"] + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"fruitful": fruitful, "tries": tries}))
    return tries


def _fruitful(folder: Path, task: str) -> int:
    """How many attempts of the task have finished a row."""
    try:
        survey = Surveyor(folder).look()
    except ConfigError:  # no attempt came so far as to make the job's folder
        return 0
    return sum(attempt.task == task and attempt.has_progress for attempt in survey.attempts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
