"""`python -m runner.retry DIR [key=value ...]`: the rows and samples in errors/ once more, under the job's settings."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from runner.__main__ import exit_code_of
from runner.signals import StopFlag

_USAGE = """\
Runs the rows and samples in errors/ once more, under the settings of the job; all others stay as they are.

  python -m runner.retry DIR [key=value ...]

The job's settings are read from DIR; a key=value changes one for this time, such as sampling.max_tokens=2000.

Exit codes: 0 done, 64 DIR holds no job or settings refused, and the others of the run (`python -m runner --help`).
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code, as `python -m runner` does."""
    stop = StopFlag().install()
    return exit_code_of(lambda: _retry(sys.argv[1:] if arguments is None else arguments, stop))


def _retry(arguments: list[str], stop: StopFlag) -> int:
    from runner.cli.compose import recompose
    from runner.cli.outcome import help_code, wants_help
    from runner.errors import ConfigError
    from runner.output import recorded_job
    from runner.report.log import log_to_stderr
    from runner.run import run

    if wants_help(arguments):
        sys.stdout.write(_USAGE)
        return help_code(arguments)
    flag = next((argument for argument in arguments if argument.startswith("-")), None)
    if flag is not None:
        raise ConfigError(f"{flag}: this command takes a folder and settings; --help says more")
    folder = Path(arguments[0]).resolve()
    job = recorded_job(folder)
    if job is None:
        raise ConfigError(f"{arguments[0]}: no job of this runner is here; give the folder that holds .runner/")
    if not job.command:
        raise ConfigError(f"{arguments[0]}: its settings are not recorded; run its command with rerun.error_code=[any]")
    own = {"output.dir": str(folder), "output.overwrite": False, "launch.kind": "none", "partition": "0/1"}
    own["rerun.error_code"] = ["any"]
    config = recompose(job.command["settings"], own, arguments[1:])
    with suppress(FileNotFoundError):  # then only absolute paths can be found, and what is not found is named
        os.chdir(job.command["directory"])  # relative paths are those of the command that began the job
    log_to_stderr()
    return run(config, stop)


if __name__ == "__main__":
    sys.exit(main())
