"""The readers: one file each. Adding one is a module that defines a Format, and its line in FORMATS."""

from __future__ import annotations

from pathlib import Path

from runner.config import InputFormat
from runner.errors import ConfigError
from runner.input import compression
from runner.input.formats.arrow_ipc import ArrowFormat
from runner.input.formats.base import Format
from runner.input.formats.delimited import DelimitedFormat
from runner.input.formats.hub_dataset import PREFIX, DatasetFormat
from runner.input.formats.jsonl import JsonlFormat
from runner.input.formats.parquet import ParquetFormat

FORMATS: dict[str, Format] = {
    "jsonl": JsonlFormat(),
    "parquet": ParquetFormat(),
    "arrow": ArrowFormat(),
    "csv": DelimitedFormat(".csv", ","),
    "tsv": DelimitedFormat(".tsv", "\t"),
    "dataset": DatasetFormat(),
}

_SETTINGS = [kind.value for kind in InputFormat if kind is not InputFormat.auto]
_BY_SUFFIX = {suffix: name for name, reader in FORMATS.items() for suffix in reader.suffixes}


def format_of(path: str, wanted: str = "auto") -> str:
    """The name of the format of a file: as wanted, or by its suffix (compression aside)."""
    if path.startswith(PREFIX):
        return "dataset"
    if wanted != "auto":
        return wanted
    name = Path(path)
    suffix = Path(name.stem).suffix if compression.is_compressed(path) else name.suffix
    if suffix.lower() not in _BY_SUFFIX:
        raise ConfigError(
            f"input.format=auto cannot tell the format of {path}; set input.format to one of {', '.join(_SETTINGS)}"
        )
    return _BY_SUFFIX[suffix.lower()]
