"""What commands over one output folder have in common: help, one-line errors, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from runner.cli.outcome import exit_code_of, help_code, wants_help
from runner.errors import ConfigError


def main(arguments: list[str], usage: str, work: Callable[[str], int]) -> int:
    """Runs ``work`` on the folder that the command line names; returns its exit code."""
    if wants_help(arguments):
        sys.stdout.write(usage)
        return help_code(arguments)
    return exit_code_of(lambda: work(_folder(arguments)))


def _folder(arguments: list[str]) -> str:
    if len(arguments) > 1 or arguments[0].startswith("-"):
        wrong = next((argument for argument in arguments if argument.startswith("-")), arguments[-1])
        raise ConfigError(f"{wrong}: this command takes one folder and nothing else; --help says more")
    return arguments[0]
