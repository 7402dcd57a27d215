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
from runner.input.formats.hub_dataset import PREFIX, fingerprint_of, parse_address
from runner.input.saved_dataset import arrow_files, is_saved_dataset
from runner.input.storage import exists, is_remote, list_remote, open_binary, size_of

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
    """Reads at most 128 KiB of the file. What is not a file of this machine has mtime_ns 0."""
    if path.startswith(PREFIX):
        size, found = fingerprint_of(path)
        return Identity(size, 0, found)
    size = size_of(path)
    digest = xxhash.xxh3_128(str(size).encode())
    with open_binary(path) as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(_SAMPLE_BYTES, size - _SAMPLE_BYTES))
        digest.update(file.read())
    return Identity(size, 0 if is_remote(path) else Path(path).stat().st_mtime_ns, digest.hexdigest())


def is_there(path: str) -> bool:
    return path.startswith(PREFIX) or exists(path)


def expand(path: Any, output_dir: Path | None = None) -> list[str]:
    """The files that ``input.path`` names, absolute, in order: list entries as given, a glob's matches sorted.

    A folder that `datasets` saved stands for its Arrow files. Raises ConfigError for an entry that names nothing,
    another folder, or a file in ``output_dir``.
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
    if text.startswith(PREFIX):
        yield from _expand_dataset(text)
        return
    if is_remote(text):
        yield from list_remote(text)
        return
    path = Path(text).expanduser()
    if _is_file(path, text):
        yield str(path.absolute())
        return
    if path.is_dir() and is_saved_dataset(path):
        yield from arrow_files(path, None)
        return
    if path.is_dir():
        raise ConfigError(
            f"input.path={text!r} is a folder; name its files, e.g. {text.rstrip('/')}/*.jsonl, "
            f"or dataset:{text} to let `datasets` find them"
        )
    # Path.glob takes no absolute pattern.
    matches = sorted(m for m in glob.iglob(str(path), recursive=True) if Path(m).is_file())  # noqa: PTH207
    if not matches and path.exists():
        raise ConfigError(f"input.path={text!r} is no regular file, and input is read more than once; save it as one")
    if not matches:
        problem = "matches no file" if glob.has_magic(text) else "does not exist"
        raise ConfigError(f"input.path={text!r} {problem} (working folder {Path.cwd()}); check the spelling")
    yield from (str(Path(match).absolute()) for match in matches)


def _is_file(path: Path, text: str) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long, a loop of links, a disk that fails
        raise ConfigError(f"input.path={text!r} cannot be looked up ({error.strerror}); correct it") from None


def _expand_dataset(text: str) -> Iterator[str]:
    """A saved folder as its files; anything else by its address, a folder's made absolute."""
    address = parse_address(text)
    if address.folder is None:
        yield text
    elif is_saved_dataset(address.folder):
        yield from arrow_files(address.folder, address.split)
    else:
        yield text.replace(f"{PREFIX}{address.name}", f"{PREFIX}{address.folder}", 1)


def _refuse_output(file: str, output_dir: Path | None) -> None:
    if is_remote(file) or file.startswith(PREFIX):
        return
    if output_dir is not None and Path(file).resolve().is_relative_to(Path(output_dir).resolve()):
        raise ConfigError(
            f"input.path includes {file}, which lies in the output folder {output_dir}; "
            f"set output.dir elsewhere or narrow input.path"
        )
