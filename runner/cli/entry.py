"""What preview and preflight have in common as commands: the run's own arguments, help, one-line errors, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.cli.command import parse
from runner.cli.origins import origins
from runner.cli.outcome import exit_code_of, help_code, wants_help
from runner.config import RunnerConfig
from runner.errors import ExitCode

Work = Callable[[RunnerConfig, dict[str, str]], Iterator[str]]
"""Gives the text to print, piece by piece, from the settings and where each came from."""


def main(arguments: list[str], usage: str, work: Work) -> int:
    """Runs one command line of a command that only looks; returns its exit code."""
    if wants_help(arguments):
        sys.stdout.write(usage)
        return help_code(arguments)
    return exit_code_of(lambda: _show(arguments, work))


def _show(arguments: list[str], work: Work) -> int:
    command = parse(arguments)
    pieces = iter([command.text or ""]) if command.config is None else work(command.config, _origins(arguments))
    for piece in pieces:
        sys.stdout.write(piece + "\n")
    return ExitCode.DONE


def _origins(arguments: list[str]) -> dict[str, str]:
    folders = [Path(argument.partition("=")[2]) for argument in arguments if argument.startswith("--config-dir=")]
    return origins(
        [argument for argument in arguments if not argument.startswith("--")], folders[-1] if folders else None
    )
