"""The command line as a whole: its few flags, then the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner import __version__
from runner.cli.compose import compose
from runner.cli.usage import as_yaml, usage
from runner.config import RunnerConfig


@dataclass(frozen=True)
class Command:
    """Either a text to print or the settings of a run."""

    text: str | None = None
    config: RunnerConfig | None = None


def parse(arguments: list[str]) -> Command:
    """Raises ConfigError for what is no flag and no setting."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        return Command(text=usage())
    if "--version" in arguments:
        return Command(text=f"{__version__}\n")
    folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    overrides = [argument for argument in arguments if argument != "--cfg" and not argument.startswith("--config-dir=")]
    config = compose(overrides, Path(folders[-1]) if folders else None)
    return Command(text=as_yaml(config)) if "--cfg" in arguments else Command(config=config)
