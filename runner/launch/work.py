"""What every launcher starts from: the folder that the tasks share and the command line of each."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config import LaunchConfig, RunnerConfig
from runner.errors import ConfigError
from runner.output import start_over, supports_leases

_OWN = ("launch", "partition", "output.dir", "output.overwrite")


@dataclass(frozen=True)
class Work:
    """One job to spread. ``given`` is the user's command line, ``arguments`` what of it every task gets."""

    config: RunnerConfig
    arguments: tuple[str, ...]
    given: tuple[str, ...]
    folder: Path
    directory: Path
    leases: bool

    @property
    def settings(self) -> LaunchConfig:
        return self.config.launch

    @property
    def name(self) -> str:
        return self.config.job.name

    @property
    def file_name(self) -> str:
        """The job's name as files and Slurm can carry it."""
        return re.sub(r"[^\w.-]", "_", self.name)

    @property
    def files(self) -> Path:
        """Where scripts and logs of the tasks are kept, beside the output."""
        return self.folder / ".runner" / "launch"

    def partition(self, task: object, num_tasks: int) -> str:
        return "auto" if self.leases else f"{task}/{num_tasks}"

    def command(self, partition: str, task: str) -> list[str]:
        """The command line of one task; it works from `directory`."""
        own = [f"output.dir={_quoted(str(self.folder))}", f"partition={partition}", f"launch.task={task}"]
        if self.settings.end_time is not None:
            own.append(f"launch.end_time={self.settings.end_time!r}")
        return [sys.executable, "-m", "runner", *self.arguments, *own]

    def make_files(self) -> Path:
        self.files.mkdir(parents=True, exist_ok=True)
        return self.files


def prepare(config: RunnerConfig, arguments: Sequence[str], directory: Path) -> Work:
    """Starts the folder over if that was asked: the tasks must not, and a requeued one least of all.

    Raises ConfigError for a partition: a launcher divides the rows itself.
    """
    assert config.output.dir is not None  # the command line fills it in
    if config.partition not in (RunnerConfig.partition, "auto"):
        raise ConfigError(
            f"partition={config.partition}: launch={config.launch.kind} divides the rows among its tasks; "
            "drop one of the two"
        )
    folder = (directory / Path(config.output.dir).expanduser()).resolve()
    if config.output.overwrite and not config.launch.dry_run:
        start_over(folder)
    leases = config.launch.leases and (config.launch.dry_run or supports_leases(folder))
    kept = tuple(argument for argument in arguments if not _is_own(argument))
    return Work(config, kept, tuple(arguments), folder, directory, leases)


def launch_arguments(arguments: Sequence[str]) -> list[str]:
    """Those of a command line that choose and set a launcher, but for what belongs to one submission."""
    chosen = [argument for argument in arguments if _name(argument).partition(".")[0] == "launch"]
    return [argument for argument in chosen if _name(argument) not in ("launch.chain", "launch.after")]


def _name(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _is_own(argument: str) -> bool:
    name = _name(argument)
    return "=" in argument and (name in _OWN or name.startswith("launch."))


def _quoted(value: str) -> str:
    """As a setting's value; a plain path stays as it is."""
    if all(char.isalnum() or char in "/._-" for char in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
