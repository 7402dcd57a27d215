"""What commands over one output folder have in common: help, one-line errors, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from runner.errors import ConfigError, ExitCode, RunnerError


def wants_help(arguments: list[str]) -> bool:
    return not arguments or "--help" in arguments or "-h" in arguments


def main(arguments: list[str], usage: str, work: Callable[[str], int]) -> int:
    """Runs ``work`` on the folder that the command line names; returns its exit code."""
    if wants_help(arguments):
        sys.stdout.write(usage)
        return ExitCode.DONE
    try:
        if len(arguments) > 1:
            raise ConfigError(f"{arguments[1]}: this command takes one folder and nothing else; --help says more")
        return work(arguments[0])
    except RunnerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # a reader such as head has seen enough
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
