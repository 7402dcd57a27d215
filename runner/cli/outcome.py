"""How every command but the run ends: what the user can act on is one line on stderr and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from runner.errors import ExitCode, RunnerError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wants_help(arguments: list[str]) -> bool:
    return not arguments or "--help" in arguments or "-h" in arguments


def help_code(arguments: list[str]) -> int:
    """Of a command that has shown its help: where nothing was named, say by an empty variable, nothing was done."""
    return ExitCode.DONE if arguments else ExitCode.REFUSED


def exit_code_of(work: Callable[[], int]) -> int:
    """That of ``work``, or of the error that it raised; an error that is no RunnerError is a bug of ours.

    But for a disk that takes no more of what the command says.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except RunnerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # a reader such as head has seen enough
        return ExitCode.DONE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        sys.stderr.write(f"{error.strerror}: what was to be shown is cut off; run again where there is space\n")
        sys.stdout = None  # else Python tries once more at its end, and exits with 120
        return ExitCode.IO
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
