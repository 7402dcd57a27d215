"""The arrows of ARCHITECTURE.md: which room may import which, and where torch may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VALUES = {"types", "config", "errors", "seeds"}
EVERYTHING = {path.stem for path in (ROOT / "runner").iterdir()} | {"jobs", "version"}

MAY_IMPORT = {
    "types": set(),
    "config": set(),
    "errors": set(),
    "seeds": set(),
    "signals": {"errors"},
    "cli": {"config", "errors", "version"},
    "jobs": VALUES,
    "input": VALUES,
    "output": VALUES,
    "report": VALUES,
    "text": VALUES,
    "models": VALUES | {"text"},
    "engine": VALUES | {"text", "models"},
    "echo": VALUES,
    "run": EVERYTHING - {"cli", "__main__"},
    "__main__": EVERYTHING - {"input", "output", "engine", "jobs", "models", "text"},
}
"""Room -> the rooms it may import, itself aside."""

TORCH = {"engine", "models"}


def sources() -> list[Path]:
    return sorted([*(ROOT / "runner").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "jobs" if parts[0] == "jobs" else parts[1]


def imports(path: Path) -> Iterator[str]:
    """Dotted names, absolute; ``from a import b`` gives a.b, so that ``from runner import engine`` counts."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    inner = {parts[1] for parts in names if parts[0] == "runner"}
    return {"version" if room == "__version__" else room for room in inner} | {p[0] for p in names if p[0] == "jobs"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not rooms_imported(path)
        return
    assert room in MAY_IMPORT, f"{room} is a new room: give it a line here and in ARCHITECTURE.md"
    assert rooms_imported(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_stays_in_the_engine(path: Path) -> None:
    uses = {name.split(".")[0] for name in imports(path)} & {"torch", "triton"}
    assert not uses or room_of(path) in TORCH


def test_every_room_has_its_line_in_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert [room for room in sorted(rooms) if f"`{room}" not in text and f"runner/{room}" not in text] == []
