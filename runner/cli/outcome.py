"""How every command but the run ends: what the user can act on is one line on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from runner.errors import ExitCode, RunnerError


def wants_help(arguments: list[str]) -> bool:
    return not arguments or "--help" in arguments or "-h" in arguments


def help_code(arguments: list[str]) -> int:
    """Of a command that has shown its help: where nothing was named, say by an empty variable, nothing was done."""
    return ExitCode.DONE if arguments else ExitCode.REFUSED


def exit_code_of(work: Callable[[], int]) -> int:
    """That of ``work``, or of the error that it raised; an error that is no RunnerError is a bug of ours."""
    try:
        return work()
    except RunnerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # a reader such as head has seen enough
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
