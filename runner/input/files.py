"""Which files the input names, in what order, and how to tell later that they are the same."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from runner.errors import ConfigError

log = logging.getLogger(__name__)

_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells a changed file from the recorded one.

    ``digest`` covers the first and the last 64 KiB and the size. Equal identities prove that size, beginning and
    end are the same; an edit in the middle that keeps the size shows only in ``mtime_ns``. A file that was
    merely touched or copied has another mtime_ns and the same digest, and counts as unchanged.
    """

    size: int
    mtime_ns: int
    digest: str


def identify(path: str) -> Identity:
    """Reads at most 128 KiB of the file."""
    stat = Path(path).stat()
    digest = xxhash.xxh3_128(str(stat.st_size).encode())
    with Path(path).open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(_SAMPLE_BYTES, stat.st_size - _SAMPLE_BYTES))
        digest.update(file.read())
    return Identity(stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def expand(path: Any, output_dir: Path | None = None) -> list[str]:
    """The files that ``input.path`` names, absolute, in order: list entries as given, a glob's matches sorted.

    Raises ConfigError for an entry that names nothing, a folder, a remote address, or a file in ``output_dir``.
    """
    entries = [path] if isinstance(path, str | Path) else path
    if not isinstance(entries, Sequence) or not entries:
        raise ConfigError(f"input.path={path!r} names no file; give a file, a glob, or a list of them")
    files = [file for entry in entries for file in _expand_entry(entry)]
    unique = list(dict.fromkeys(files))
    if len(unique) < len(files):
        log.warning("input.path names %d files twice; each is read once", len(files) - len(unique))
    for file in unique:
        _refuse_output(file, output_dir)
    return unique


def _expand_entry(entry: Any) -> Iterator[str]:
    if not isinstance(entry, str | Path) or not str(entry):
        raise ConfigError(f"input.path has the entry {entry!r}; each entry must be the name of a file or a glob")
    text = str(entry)
    if "://" in text:
        raise ConfigError(f"input.path={text!r} is remote; copy it to this machine and give the local path")
    path = Path(text).expanduser()
    if path.is_file():
        yield str(path.absolute())
        return
    if path.is_dir():
        raise ConfigError(f"input.path={text!r} is a folder; name its files, e.g. {text.rstrip('/')}/*.jsonl")
    # Path.glob takes no absolute pattern.
    matches = sorted(m for m in glob.iglob(str(path), recursive=True) if Path(m).is_file())  # noqa: PTH207
    if not matches:
        problem = "matches no file" if glob.has_magic(text) else "does not exist"
        raise ConfigError(f"input.path={text!r} {problem} (working folder {Path.cwd()}); check the spelling")
    yield from (str(Path(match).absolute()) for match in matches)


def _refuse_output(file: str, output_dir: Path | None) -> None:
    if output_dir is not None and Path(file).resolve().is_relative_to(Path(output_dir).resolve()):
        raise ConfigError(
            f"input.path includes {file}, which lies in the output folder {output_dir}; "
            f"set output.dir elsewhere or narrow input.path"
        )
