"""Checks the command line's key=value arguments before Hydra sees them: Hydra lets `+unknown=1` through."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from dataclasses import MISSING
from enum import Enum
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from runner.cli.keys import free_form_parent, groups, is_secret, known_keys, nearest, suggestion
from runner.cli.secret_values import holds_secret
from runner.errors import ConfigError

_SECRET_ADVICE = "settings are written to disk, so a secret is never one; use the environment (HF_TOKEN for a hub)"
_SECRET_OF_ENVIRONMENT = re.compile(
    r"\$\{\s*oc\.(?:env|decode)[^}]*(?:token|secret|passw|key|credential|\$\{)", re.IGNORECASE
)
Presets = dict[str, list[str]]
"""Every group with the names of its presets."""


def check(arguments: list[str], presets: Presets) -> list[str]:
    """The same arguments as Hydra should see them; raises ConfigError at the first that is not a setting."""
    parser = OverridesParser.create()
    overrides = [_check_one(argument, parser, presets) for argument in arguments]
    _check_groups(overrides, presets)
    return overrides


def _check_groups(overrides: list[str], presets: Presets) -> None:
    """A preset that does not exist, and the job, which has none by default."""
    chosen = {name: value.strip("\"'") for name, _, value in (override.partition("=") for override in overrides)}
    for group in groups():
        value, options = chosen.get(group, "{"), presets.get(group, [])
        if value.startswith("{") or value in options:
            continue
        advice = "; a model of your own is model.path=..." if group == "model" else ""
        raise ConfigError(f"{group}={value}: no such preset; {_nearest_option(value, options)}{advice}")
    if chosen.get("job", "{").startswith("{"):
        raise ConfigError(f"job is missing: give job=NAME, one of {', '.join(presets['job'])}")


def _nearest_option(value: str, options: list[str]) -> str:
    near = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
    lead = f"did you mean {near[0]}? " if near else ""
    return f"{lead}there are: {', '.join(options)}" if options else "this section has settings only"


def _check_one(argument: str, parser: OverridesParser, presets: Presets) -> str:
    name = argument.partition("=")[0].lstrip("+~").strip()
    _check_look(argument, name)
    if "=" not in argument and not argument.startswith("~"):
        raise ConfigError(f"{argument}: not key=value; {_whole_argument_hint(argument, presets)}")
    _check_name(name)
    override = _parse(argument, name, parser)
    if override.is_sweep_override():
        raise ConfigError(f"{argument}: several values; a list is {name}=[a,b], a string is {_quoted(argument)}")
    if override.type == OverrideType.DEL:
        raise ConfigError(f"{argument}: a setting cannot be removed; {_instead_of_removal(name)}")
    bare = argument.lstrip("+")
    if free_form_parent(name):
        return "++" + bare
    if override.type == OverrideType.ADD:
        raise ConfigError(f"{argument}: {name} is a setting already; write it without the +")
    return "++" + bare if name in known_keys() and known_keys()[name].free_form else bare


def _instead_of_removal(name: str) -> str:
    if name not in known_keys() or known_keys()[name].default in (MISSING, "???"):
        return "leave it out, or give it another value"
    return f"{name}={_written(known_keys()[name].default)} is its default"


def _written(value: Any) -> str:
    """A default as an argument has it."""
    return str(value.value) if isinstance(value, Enum) else json.dumps(value)


def _check_name(name: str) -> None:
    """Refuses a key that the schema does not have; a secret's value is never echoed."""
    if name in known_keys() or name in groups():
        return
    if is_secret(name) and not nearest(name, cutoff=0.85):
        raise ConfigError(f"{name}: {_SECRET_ADVICE}")
    if "_target_" in name.split("."):
        raise ConfigError(f"{name}: _target_ would run code by its name and is never a setting; see job.module")
    if not free_form_parent(name):
        raise ConfigError(f"{name}: no such setting; {suggestion(name)}")


def _check_look(text: str, name: str) -> None:
    """Refuses what looks like a secret, also in the name of a setting; it is not repeated."""
    if holds_secret(text, name):
        where = "an argument" if holds_secret(name) else name
        raise ConfigError(f"{where}: the value looks like a token or a private key; {_SECRET_ADVICE}")


def _parse(argument: str, name: str, parser: OverridesParser) -> Override:
    try:
        return parser.parse_override(argument)
    except HydraException:
        advice = _list_hint(argument, name) or f"quote it: {_quoted(argument)}"
        raise ConfigError(f"{argument}: the value does not parse; {advice}") from None


def _list_hint(argument: str, name: str) -> str | None:
    """For a list whose items lost their quotes to the shell: the argument as the shell should be given it."""
    value, key = argument.partition("=")[2], known_keys().get(name)
    if key is None or not key.takes_list or not re.fullmatch(r"\[[^\[\]'\"$`\\!]*\]", value):
        return None
    items = ",".join(f"'{item.strip()}'" for item in value[1:-1].split(","))
    return f'quote its items, and all of it: "{name}=[{items}]"'


def _quoted(argument: str) -> str:
    """The argument as a shell should be given it, its value one quoted string."""
    key, _, value = argument.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    escaped = value.replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def _whole_argument_hint(argument: str, presets: Presets) -> str:
    if argument.startswith("-"):
        return "the only flags are --help, --version, --cfg and --config-dir"
    near = next((f"{group}={argument}" for group, options in presets.items() if argument in options), None)
    if near:
        return f"did you mean {near}?"
    near = nearest(argument)
    return f"did you mean {near}=...?" if near else "`python -m runner --help` shows how"


def _refuse_nested_item(item: object, name: str) -> None:
    """OmegaConf looks at the items of a list only where they are single values; the item may hold a secret."""
    key = known_keys().get(name)
    if key is not None and key.type is not Any and isinstance(item, list | dict):
        kind = "list" if isinstance(item, list) else "dict"
        raise ConfigError(f"{name}: an item of its list is a {kind}, not a single value; {name} takes {key.type_name}")


def refuse_nested(value: object, name: str = "") -> None:
    """Walks a composed tree, whichever files it came from.

    No _target_, no secret, also none of the environment, and in a list of single values nothing else.
    """
    if isinstance(value, str):
        _check_look(value, name)
        if _SECRET_OF_ENVIRONMENT.search(value):
            raise ConfigError(f"{name}: it takes a secret from the environment; {_SECRET_ADVICE}")
    if isinstance(value, list):
        for item in value:
            _refuse_nested_item(item, name)
            refuse_nested(item, name)
    if isinstance(value, dict):
        for key, item in value.items():
            _check_look(str(key), name)
            full = f"{name}.{key}" if name else str(key)
            if full not in known_keys() and full not in groups():
                _check_name(full)
            refuse_nested(item, full)
