"""What can be set: every dotted key of the schema with its type, tier and help, and the nearest one to a typo."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_origin, get_type_hints

from runner.config import RunnerConfig

_SECRET = re.compile(r"(.*_)?(token|password|passwd|secret|api_?key|access_?key|credentials?)", re.IGNORECASE)


@dataclass(frozen=True)
class Key:
    """One setting. ``free_form`` keys hold a dict whose names are the user's own."""

    name: str
    type: Any
    tier: str
    help: str
    default: Any

    @property
    def free_form(self) -> bool:
        return get_origin(self.type) is dict

    @property
    def takes_list(self) -> bool:
        return self.type is Any or get_origin(self.type) is list

    @property
    def type_name(self) -> str:
        if self.type is Any:
            return "str | list"
        if isinstance(self.type, type) and issubclass(self.type, Enum):
            return " or ".join(member.value for member in self.type)
        if self.free_form:
            return "dict"
        return self.type.__name__ if type(self.type) is type else str(self.type)


@cache
def known_keys() -> dict[str, Key]:
    """Every setting by its dotted name, in the order of the schema."""
    return {key.name: key for key in _walk(RunnerConfig, "")}


@cache
def groups() -> frozenset[str]:
    """The sections of the schema; each is a folder of presets in conf/ or a plain section (resume)."""
    return frozenset(item.name for item in fields(RunnerConfig) if item.metadata.get("tier") is None)


def _walk(schema: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(schema)
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            yield from _walk(kind, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield Key(prefix + item.name, kind, item.metadata["tier"], item.metadata["help"], _default(item))


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def free_form_parent(name: str) -> Key | None:
    """The dict setting that `name` lies in, such as job.chat_template_kwargs.enable_thinking."""
    for key in known_keys().values():
        if key.free_form and name.startswith(key.name + "."):
            return key
    return None


def is_secret(name: str) -> bool:
    """Whether a key's last part names a token or a password."""
    return _SECRET.fullmatch(name.rpartition(".")[2]) is not None


def nearest(name: str, cutoff: float = 0.6) -> str | None:
    """The known key most like `name`: the same one of another section, a close one of its own, or of any."""
    section, _, leaf = name.rpartition(".")
    known = [*known_keys(), *sorted(groups())]
    inside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    anywhere = {key.rpartition(".")[2]: key for key in reversed(known)}
    if leaf in anywhere:
        return anywhere[leaf]
    for names, least in ((inside, cutoff), (anywhere, max(cutoff, 0.75))):
        match = difflib.get_close_matches(leaf, names, n=1, cutoff=least)
        if match:
            return names[match[0]]
    return None


def suggestion(name: str) -> str:
    """The end of a message about an unknown key."""
    near = nearest(name)
    if near:
        return f"did you mean {near}?"
    section = name.partition(".")[0]
    inside = [key.rpartition(".")[2] for key in known_keys() if key.startswith(section + ".")]
    return f"{section} has {', '.join(inside)}" if inside else "`python -m runner --help` lists the settings"
