"""Folders that `datasets` saved with save_to_disk: what they hold are Arrow files, in a recorded order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.errors import ConfigError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def arrow_files(folder: Path, split: str | None) -> list[str]:
    """The files of a saved dataset in its order; of several splits, ``split`` names the one.

    Raises ConfigError for a split that is not there, and for records that are damaged or name other folders' files.
    """
    if (folder / _SPLITS).is_file():
        folder /= _chosen(folder, split)
    files = _record(folder / _STATE).get("_data_files") or []
    names: list[Any] = [file.get("filename") for file in files if isinstance(file, dict)]
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ConfigError(f"input.path: {folder / _STATE} names {name!r}, which is no file of its folder")
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise ConfigError(f"input.path: {folder / name} is not there as a file; save the dataset again")
    return [str((folder / name).absolute()) for name in names]


def _chosen(folder: Path, split: str | None) -> str:
    splits = _record(folder / _SPLITS).get("splits")
    names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
    chosen = names[0] if split is None and len(names) == 1 else split
    if chosen is None or chosen not in names or Path(chosen).name != chosen:
        raise ConfigError(
            f"input.path: {folder} has the splits {', '.join(names)}; choose one: dataset:{folder}?split=NAME"
        )
    return chosen


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"input.path: {path} cannot be read ({error}); save the dataset again") from None
    if not isinstance(record, dict):
        raise ConfigError(f"input.path: {path} is no record of a saved dataset; save the dataset again")
    return record
