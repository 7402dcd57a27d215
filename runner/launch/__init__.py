"""The same work on many GPUs: each launcher is a file of this folder, named by launch.kind."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

from runner.config import RunnerConfig
from runner.errors import ConfigError, ExitCode
from runner.launch.launchers import __path__ as _launchers
from runner.launch.work import Work, prepare
from runner.signals import StopFlag

__all__ = ["Launcher", "launch"]


class Launcher(Protocol):
    """What each file of `runner.launch.launchers` defines."""

    def launch(self, work: Work, stop: StopFlag) -> ExitCode:
        """Starts or submits the tasks. Raises RunnerError for what the user can act on."""
        ...


def launch(config: RunnerConfig, arguments: Sequence[str], stop: StopFlag) -> ExitCode:
    """Runs a command line on what launch.kind names; ``arguments`` are its own, for the tasks to be given.

    Raises ConfigError for a kind that has no file, and what the launcher raises.
    """
    launcher = find(config.launch.kind)
    return launcher.launch(prepare(config, arguments, Path.cwd()), stop)


def find(kind: str) -> Launcher:
    kinds = sorted(module.name for module in iter_modules(_launchers))
    if kind not in kinds:
        raise ConfigError(f"launch.kind={kind}: no such launcher; there are none, {', '.join(kinds)}")
    return cast(Launcher, import_module(f"runner.launch.launchers.{kind}"))
