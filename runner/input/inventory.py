"""One pass over the input at job creation: what there is, in what order, and how to seek in it.

The inventory is recorded with the job. Row ids count through its files in their recorded order, so that files
added later never move the ids of old rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.config import InputConfig
from runner.errors import ConfigError
from runner.input.files import Identity, expand, identify, is_there
from runner.input.formats import FORMATS, format_of
from runner.input.schema import (
    Observed,
    ObservedRows,
    decode_schema,
    encode_schema,
    is_json_text,
    project,
    refuse_deep,
    unite,
)

Progress = Callable[[int, int, int], None]
"""Called with (rows so far, bytes so far, bytes in all)."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One input file. ``num_rows`` is 0 for a file behind ``input.limit``, which was not scanned."""

    path: str
    format: str
    identity: Identity
    num_rows: int
    layout: dict[str, Any]


@dataclass(frozen=True)
class Inventory:
    """The input of a job, frozen."""

    files: tuple[FileEntry, ...]
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    def first_row_ids(self) -> list[int]:
        """The global id of row 0 of each file, and the end."""
        return list(accumulate((file.num_rows for file in self.files), initial=0))

    def to_json(self) -> dict[str, Any]:
        return {"schema": encode_schema(self.schema), "files": [asdict(file) for file in self.files]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Inventory:
        files = (FileEntry(**{**file, "identity": Identity(**file["identity"])}) for file in value["files"])
        return cls(tuple(files), decode_schema(value["schema"]))


class Change(StrEnum):
    UNCHANGED = "unchanged"
    EXTENDED = "extended"  # all recorded files are as they were; there are new ones
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the input differs from the recorded one. ``differences`` has one line a difference."""

    change: Change
    differences: tuple[str, ...] = ()
    new_files: tuple[str, ...] = ()


def build_inventory(config: InputConfig, output_dir: Path | None = None, progress: Progress | None = None) -> Inventory:
    """Scans all input files once. Raises ConfigError for input that cannot be used."""
    paths = expand(config.path, output_dir)
    files, schema = _scan(paths, config, config.limit, progress)
    return Inventory(files, schema)


def compare_inventory(recorded: Inventory, config: InputConfig, output_dir: Path | None = None) -> Comparison:
    """Compares by name and identity only; no file is read through."""
    present = dict.fromkeys(expand(config.path, output_dir))
    differences = [line for file in recorded.files for line in _differences(file, present)]
    known = {file.path for file in recorded.files}
    new_files = tuple(path for path in present if path not in known)
    if differences:
        return Comparison(Change.CHANGED, tuple(differences), new_files)
    return Comparison(Change.EXTENDED if new_files else Change.UNCHANGED, (), new_files)


def extend_inventory(
    recorded: Inventory, new_files: Sequence[str], config: InputConfig, progress: Progress | None = None
) -> Inventory:
    """The recorded inventory with new files after the old ones; their rows must fit the frozen schema."""
    limit = None if config.limit is None else config.limit - recorded.num_rows
    files, schema = _scan(new_files, config, limit, progress)
    for field in schema:
        position = recorded.schema.get_field_index(field.name)
        if position < 0 or not _fits(field, recorded.schema.field(position)):
            frozen = f"is {recorded.schema.field(position).type}" if position >= 0 else "does not exist"
            raise ConfigError(
                f"input.path: column {field.name!r} of the new files is {field.type} but {frozen} in this job; "
                f"make the columns equal or run the new files as a job of their own"
            )
    return Inventory(recorded.files + files, recorded.schema)


def _scan(
    paths: Sequence[str], config: InputConfig, limit: int | None, progress: Progress | None
) -> tuple[tuple[FileEntry, ...], pa.Schema]:
    observed = ObservedRows()
    identities = [identify(path) for path in paths]
    meter = _Meter(sum(identity.size for identity in identities), progress)
    entries: list[FileEntry] = []
    declared: list[tuple[str, pa.Schema]] = []
    for path, identity in zip(paths, identities, strict=True):
        left = None if limit is None else limit - sum(entry.num_rows for entry in entries)
        name = format_of(path, config.format.value)
        if left is not None and left <= 0:
            entries.append(FileEntry(path, name, identity, 0, {}))
            continue
        scan = FORMATS[name].scan(path, left, observed, meter.tick)
        entries.append(FileEntry(path, name, identity, scan.num_rows, scan.layout))
        if scan.schema is not None:
            declared.append((path, scan.schema))
    observed.ids.warn()
    schema = _freeze(declared, observed, config.prompt_column)
    if schema.names:
        schema = project(schema, config.columns)
    refuse_deep(schema)
    return tuple(entries), schema


def _freeze(declared: list[tuple[str, pa.Schema]], observed: Observed, prompt_column: str) -> pa.Schema:
    if not declared:
        return observed.schema(prompt_column)
    schema = unite(declared)
    unknown = [name for name in observed.fields if name not in schema.names]
    if unknown:
        raise ConfigError(
            f"input.path: the text files have the column {unknown[0]!r}, which {declared[0][0]} lacks; "
            f"make the columns equal or run the files as separate jobs"
        )
    return schema


class _Meter:
    """Adds up what the scans report."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self._rows = self._bytes = 0
        self._total = total_bytes
        self._progress = progress

    def tick(self, rows: int, num_bytes: int) -> None:
        self._rows += rows
        self._bytes += num_bytes
        if self._progress:
            self._progress(self._rows, self._bytes, self._total)


def _fits(new: pa.Field, frozen: pa.Field) -> bool:
    if is_json_text(frozen):
        return True
    try:
        pair = [pa.schema([("x", frozen.type)]), pa.schema([("x", new.type)])]
        return bool(pa.unify_schemas(pair, promote_options="permissive").field(0).type.equals(frozen.type))
    except pa.ArrowTypeError:
        return False


def _differences(file: FileEntry, present: dict[str, Any]) -> list[str]:
    if file.path not in present:
        gone = "is not named by input.path any more" if is_there(file.path) else "is gone"
        return [f"{file.path} {gone}"]
    now = identify(file.path)
    if now.size != file.identity.size:
        return [f"{file.path} has {now.size} bytes; it had {file.identity.size}"]
    if now.digest != file.identity.digest:
        return [f"{file.path} has the same size but other content"]
    return []
