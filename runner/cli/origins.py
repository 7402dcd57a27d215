"""Where the value of each setting comes from: the command line, a preset by name, or the schema's default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from runner.cli.compose import CONF, presets
from runner.cli.overrides import check
from runner.config import RunnerConfig

COMMAND_LINE, DEFAULT = "command line", "default"
_OURS = ("@", "defaults")


def origins(arguments: Iterable[str], config_dir: Path | None = None) -> dict[str, str]:
    """Dotted key to its origin; keys that are not named have the schema's default. The arguments compose."""
    overrides = check(list(arguments), presets(config_dir))
    found: dict[str, str] = {}
    for group, name in _choices(overrides, config_dir).items():
        for key in _keys_of_preset(group, name, config_dir):
            found[key] = f"preset {group}={name}"
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in presets(config_dir) or value.startswith("{"):
            found.update(dict.fromkeys(_below(key, value), COMMAND_LINE))
    return found


def _choices(overrides: list[str], config_dir: Path | None) -> Mapping[str, str]:
    """The preset that each group came to."""
    ConfigStore.instance().store(name="schema", node=RunnerConfig)
    GlobalHydra.instance().clear()
    if config_dir is not None:
        overrides = [f"hydra.searchpath=['file://{config_dir.resolve()}']", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    choices: dict[str, Any] = OmegaConf.to_container(tree.hydra.runtime.choices)  # type: ignore[assignment]
    chosen = {group.partition("@")[0]: str(name) for group, name in choices.items() if name is not None}
    return {group: name for group, name in chosen.items() if group in presets(config_dir)}


def _keys_of_preset(group: str, name: str, config_dir: Path | None) -> Iterator[str]:
    for folder in filter(None, (CONF, config_dir)):
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            values: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
            yield from (f"{group}.{key}" for key in values if key not in _OURS)


def _below(key: str, value: str) -> list[str]:
    """``sampling={top_p: 1}`` sets keys below its own."""
    if not value.startswith("{"):
        return [key]
    values: Any = OmegaConf.to_container(OmegaConf.create(f"{{x: {value}}}"))["x"]  # type: ignore[call-overload,index]
    return [f"{key}.{name}" for name in values]
