"""Hydra's part: presets and command line in, one plain RunnerConfig out, or one line that says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from runner.cli.combinations import check_combinations
from runner.cli.keys import known_keys, suggestion
from runner.cli.overrides import Presets, check, refuse_nested
from runner.config import RunnerConfig
from runner.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
_OF_A_LIST = re.compile(r"\[\d+\]$")
CONF = ROOT / "conf"
PACKAGE = "package:"


def compose(arguments: Iterable[str], config_dir: Path | None = None) -> RunnerConfig:
    """The settings of a run, checked as far as that goes without opening a file or a model.

    ``arguments`` are key=value strings; ``config_dir`` is a folder of the user's own presets, laid out as conf/.
    Raises ConfigError with one line that names the key, the value and the fix.
    """
    arguments = list(arguments)
    tree = _tree(check(arguments, presets(config_dir)), arguments, config_dir)
    try:
        refuse_nested(OmegaConf.to_container(tree))
        config = _to_dataclasses(tree)
    except OmegaConfBaseException as error:
        raise _explain(error, arguments) from None
    _fill_in(config)
    check_combinations(config)
    return config


def recompose(recorded: Mapping[str, Any], own: Mapping[str, Any], arguments: list[str]) -> RunnerConfig:
    """The settings of an earlier run with others in their place: ``own`` by dotted key, under ``arguments``.

    Settings that a newer version has added take their defaults. Raises ConfigError as `compose` does.
    """
    overrides = [override.lstrip("+") for override in check(["job=recorded", *arguments], {"job": ["recorded"]})[1:]]
    try:
        tree = OmegaConf.merge(OmegaConf.structured(RunnerConfig), OmegaConf.create(dict(recorded)))
        for key, value in own.items():
            OmegaConf.update(tree, key, value)
        tree = OmegaConf.merge(tree, OmegaConf.from_dotlist(overrides))
        refuse_nested(OmegaConf.to_container(tree))
        assert isinstance(tree, DictConfig)
        config = _to_dataclasses(tree)
    except OmegaConfBaseException as error:
        raise _explain(error, arguments) from None
    check_combinations(config)
    return config


def presets(config_dir: Path | None = None) -> Presets:
    """Every group of conf/ with its options, sorted."""
    found: dict[str, set[str]] = {}
    for folder in filter(None, (CONF, config_dir)):
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def _tree(overrides: list[str], arguments: list[str], config_dir: Path | None) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=RunnerConfig)
    GlobalHydra.instance().clear()
    if config_dir is not None:
        overrides = [f"hydra.searchpath=['file://{_folder(config_dir)}']", *overrides]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise _explain(error, arguments) from None


def _folder(config_dir: Path) -> Path:
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir={config_dir}: no such folder")
    return config_dir.resolve()


def _explain(error: Exception, arguments: list[str]) -> ConfigError:
    """One line for what Hydra, OmegaConf and YAML say in four to eight."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines()]
    if isinstance(error, YAMLError):
        return ConfigError(f"a preset is not valid YAML: {' '.join(lines)}")
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), None)
    key = key and _OF_A_LIST.sub("", key)
    where = f"{lines.pop(0).partition(':')[0]}, " if lines[0].endswith("raised while composing config:") else ""
    if key is None:
        return ConfigError(where + lines[0])
    if key not in known_keys():
        return ConfigError(f"{where}{key}: no such setting; {suggestion(key)}")
    given = next((value for name, _, value in (a.partition("=") for a in arguments) if name.lstrip("+") == key), None)
    shown = f"{key}={given}" if given is not None else key
    return ConfigError(f"{where}{shown}: {_reason(lines[0])}; {key} takes {known_keys()[key].type_name}")


def _reason(message: str) -> str:
    """OmegaConf's reason without the words that only a programmer needs."""
    if "is not Optional" in message:
        return "null is no value here"
    message = re.sub(r"^Value ('.*') of type '\w+' could not be converted to ", r"\1 is not ", message)
    message = message.replace("is not Integer", "is not an integer").replace("is not Float", "is not a number")
    return message.replace("is not a ListConfig, list or tuple.", "is not a list, write [a,b]")


def _to_dataclasses(tree: DictConfig) -> RunnerConfig:
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        key = missing[0]
        raise ConfigError(f"{key} is missing: give {key}=... ({known_keys()[key].help})")
    config: Any = OmegaConf.to_object(tree)
    assert isinstance(config, RunnerConfig)
    _write_newlines(config)
    return config


def _write_newlines(config: RunnerConfig) -> None:
    """A command line cannot easily hold a newline: in a setting that is text, ``\\n`` stands for one."""
    job, sampling = config.job, config.sampling
    job.template = job.template and _newlines(job.template)
    job.system_prompt = job.system_prompt and _newlines(job.system_prompt)
    sampling.stop = [_newlines(text) for text in sampling.stop]
    sampling.bad_words = [_newlines(text) for text in sampling.bad_words]


def _newlines(text: str) -> str:
    return text.replace("\\n", "\n")


def _fill_in(config: RunnerConfig) -> None:
    """What hangs on other settings or on where this program lies."""
    config.input.path = _in_package(config.input.path)
    if config.output.dir is None:
        config.output.dir = f"outputs/{config.job.name}"


def _in_package(path: Any) -> Any:
    """package:jobs/data/x.jsonl is a file that ships with this program, from whatever folder it is run."""
    if isinstance(path, list):
        return [_in_package(item) for item in path]
    if isinstance(path, str) and path.startswith(PACKAGE):
        return str(ROOT / path.removeprefix(PACKAGE))
    return path
