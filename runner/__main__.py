"""`python -m runner job=...`: settings, then the run, then an exit code; errors of the user are one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from runner.signals import Overdue, StopFlag


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    stop = StopFlag().install()
    return exit_code_of(lambda: _run(sys.argv[1:] if arguments is None else arguments, stop))


def exit_code_of(work: Callable[[], int]) -> int:
    """The exit code of a command that runs a job; what the user can act on is one line on stderr."""
    from runner.errors import ExitCode, RunnerError  # imported under the handlers, as everything heavier is

    try:
        return work()
    except RunnerError as error:
        with suppress(OSError):  # stderr may be a file on the disk that is full
            sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Overdue:
        logging.getLogger("runner").warning("stopped; run the same command again to continue")
        return ExitCode.STOPPED
    except KeyboardInterrupt:
        logging.getLogger("runner").warning("interrupted; run the same command again to continue")
        return ExitCode.INTERRUPTED
    finally:
        _drop_unwritten()


def _drop_unwritten() -> None:
    """Lets go of what stderr cannot be rid of, for which the interpreter would end with a code of its own."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _run(arguments: list[str], stop: StopFlag) -> int:
    from runner.cli.command import parse

    command = parse(arguments)
    if command.text is not None:
        sys.stdout.write(command.text)
        return 0
    from runner.report.log import log_to_stderr
    from runner.run import run

    log_to_stderr()
    assert command.config is not None
    if command.config.launch.kind != "none":
        from runner.launch import launch

        return launch(command.config, arguments, stop)
    return run(command.config, stop)


if __name__ == "__main__":
    sys.exit(main())
