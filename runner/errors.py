"""Exit codes and the errors that end a run with one clear line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; scripts and Slurm rely on these."""

    DONE = 0
    BUG = 1
    ERROR_BUDGET = 3
    REFUSED = 64
    DAMAGED = 65
    LOCKED = 73
    IO = 74
    STOPPED = 75
    INTERRUPTED = 130


def told(error: BaseException) -> str:
    """The kind of an error and its message; a user's own kind of error may fail to give one."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as failure:  # noqa: BLE001 - whatever it is, the error that it hides is what counts
        return f"{type(error).__name__} (its message failed with {type(failure).__name__})"


class RunnerError(Exception):
    """An error that the user can act on: its message is one line with the key, the value and the fix.

    What it quotes of a file or a setting is shown, not sent: control characters and direction marks are spelled out.
    """

    exit_code = ExitCode.BUG

    def __str__(self) -> str:
        return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in super().__str__())


class ConfigError(RunnerError):
    """A setting or an input is refused before any work starts."""

    exit_code = ExitCode.REFUSED


class BudgetError(RunnerError):
    """Too many rows ended in errors/."""

    exit_code = ExitCode.ERROR_BUDGET


class DamageError(RunnerError):
    """Verify found damage in the output folder."""

    exit_code = ExitCode.DAMAGED


class LockedError(RunnerError):
    """Another runner works on this output and partition."""

    exit_code = ExitCode.LOCKED


class StorageError(RunnerError):
    """The file system refused a read or a write; run again once there is space."""

    exit_code = ExitCode.IO


class StalledError(RunnerError):
    """Attempt after attempt came to nothing: a loop that starts runs by itself must not go on."""

    exit_code = ExitCode.BUG


class EngineError(RunnerError):
    """The engine failed and could not be brought back; run again to continue."""

    exit_code = ExitCode.STOPPED
