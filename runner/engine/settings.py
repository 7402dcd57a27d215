"""What an engine is built from. No torch: the parent process makes these values and pickles them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
from types import MappingProxyType, NoneType
from typing import Any, get_args, get_type_hints

from runner.config import EngineConfig, ModelSettings
from runner.errors import ConfigError
from runner.limits import beyond_limits, engine_conflicts, model_conflicts
from runner.models import ModelFiles


@dataclass(frozen=True)
class EngineSettings:
    """Everything that the engine process needs to start."""

    files: ModelFiles
    model: ModelSettings
    engine: EngineConfig = field(default_factory=EngineConfig)


def settings_of_keywords(model: Any, keywords: Mapping[str, Any]) -> tuple[ModelSettings, EngineConfig]:
    """What the keywords of `runner.engine.Engine` choose, under the rules of the command line. Raises ConfigError."""
    of_model, of_engine = get_type_hints(ModelSettings), get_type_hints(EngineConfig)
    del of_engine["kind"]  # the library has but one
    known = of_engine | {key: hint for key, hint in of_model.items() if key != "path"}
    for key, value in keywords.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"Engine({key}={value!r}): no such setting; {_hint(near, known)}")
    chosen = {key: checked_type(key, value, known[key]) for key, value in keywords.items()}
    path = checked_type("model", model, of_model["path"])
    settings = ModelSettings(path, **{key: value for key, value in chosen.items() if key in of_model})
    engine = EngineConfig(**{key: value for key, value in chosen.items() if key in of_engine})
    for problem in (*beyond_limits("engine", engine), *engine_conflicts(engine), *model_conflicts(settings)):
        raise ConfigError(problem)
    return settings, engine


def checked_type(key: str, value: Any, hint: Any) -> Any:
    """``value`` as a setting of type ``hint``: a type of _TYPES or an Enum, or None with one. Raises ConfigError."""
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return None
    if issubclass(kinds[0], Enum):
        return _member(kinds[0], key, value)
    accepted, convert, name = _TYPES[kinds[0]]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kinds[0] is not bool):
        raise ConfigError(f"Engine({key}={value!r}): must be {name}")
    return convert(value)


def _member(kind: type[Enum], key: str, value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(member.value for member in kind)
        raise ConfigError(f"Engine({key}={value!r}): choose one of {choices}") from None


def _hint(near: list[str], known: Mapping[str, Any]) -> str:
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


_TYPES: Mapping[type, tuple[type | tuple[type, ...], Callable[[Any], Any], str]] = MappingProxyType(
    {
        bool: (bool, bool, "True or False"),
        int: (Integral, int, "a whole number"),
        float: (Real, float, "a number"),
        str: ((str, os.PathLike), os.fspath, "a text"),
    }
)
