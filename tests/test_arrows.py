"""The arrows between the rooms, read from the source: who may import whom, and who may import what.

Lazy imports inside functions count as well, but for the model loaders named below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"types", "config", "errors", "limits", "seeds"}
LIBRARIES = {"runner", "jobs", "conf"}

ALLOWED = {
    # room: the rooms of runner that it may import beside itself and the base
    "types": set(),
    "errors": set(),
    "limits": set(),
    "seeds": set(),
    "config": set(),
    "signals": set(),
    "echo": {"text"},
    "cli": {"text"},
    "text": set(),
    "models": set(),
    "report": set(),
    "report.__main__": {"cli", "output", "report"},
    "input": {"text"},
    "output": set(),
    "engine": {"models", "text"},
    "run": {"text", "input", "output", "models", "engine", "report", "signals", "echo"},
    "launch": {"input", "output", "report", "signals"},
    "__main__": {"cli", "run", "launch", "report", "signals"},
    "preview": {"cli", "run", "report", "text"},
    "preflight": {"cli", "run", "report"},
    "profile": {"cli", "run", "report", "engine", "models"},
    "export": {"cli", "output"},
    "repair": {"cli", "output", "report", "verify"},
    "retry": {"__main__", "cli", "run", "report", "signals", "output"},
    "status": {"cli", "output", "report"},
    "verify": {"cli", "output", "report"},
    "__init__": set(),
}
BASE_ONLY_STANDARD_LIBRARY = {"types", "errors", "seeds"}
"""torch, and what loads it, belong to these rooms alone; text loads transformers' tokenizers inside one function."""
TORCH_ROOMS = {"engine", "models"}
TORCH = {"torch", "triton", "accelerate", "peft", "safetensors"}
ARROW_ROOMS = {"input", "output", "export"}


def sources(folder: str = "runner") -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    """A room is a file or folder of runner/; the command of report/ is one of its own, since it opens the output."""
    if path == ROOT / "runner" / "report" / "__main__.py":
        return "report.__main__"
    return path.relative_to(ROOT / "runner").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its room"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "runner" and len(parts) > 1 and parts[1] != "__version__"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_it_may(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: give it a line in ALLOWED and in ARCHITECTURE.md"
    assert rooms_imported(path) <= ALLOWED[room] | BASE | {room}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    room, libraries = room_of(path), {name.split(".")[0] for name in imports(path)}
    if room not in TORCH_ROOMS:
        assert not libraries & TORCH
        assert "transformers" not in libraries or room == "text"
    if room not in ARROW_ROOMS:
        assert "pyarrow" not in libraries
    if room not in {"cli", "config"}:
        assert not libraries & {"hydra", "omegaconf"}
    assert room == "run" or "jobs" not in libraries


@pytest.mark.parametrize("room", sorted(BASE_ONLY_STANDARD_LIBRARY))
def test_the_base_needs_nothing_but_the_standard_library(room: str) -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "runner" / f"{room}.py")}
    assert names <= sys.stdlib_module_names | {"runner"}


@pytest.mark.parametrize("path", sources("jobs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_jobs_know_only_the_base_and_the_standard_library(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(path)}
    assert libraries <= sys.stdlib_module_names | {"runner", "jobs"}
    assert rooms_imported(path) <= BASE


def modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import runner.__main__",
        "import runner.cli.command",
        "import runner.run",
        "import runner.input",
        "import runner.output",
        "import runner.text",
        "import runner.report.progress",
        "import jobs; [__import__(name) for name in jobs.REGISTERED.values()]",
    ],
)
def test_importing_a_room_of_the_parent_loads_no_torch(statement: str) -> None:
    assert not modules_after(statement) & {"torch", "transformers"}


def test_the_entry_is_light_before_its_handlers_stand() -> None:
    heavy = {"hydra", "omegaconf", "pyarrow", "numpy", "torch", "transformers", "tqdm"}
    assert not modules_after("import runner.__main__") & heavy
