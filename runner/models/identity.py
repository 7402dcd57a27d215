"""The identity of a model's files: what the fingerprint of a run compares.

A file up to FULL_HASH_BYTES is hashed whole. A larger one is hashed by its size, its first and last MiB (for
safetensors that holds the header: every tensor's name, type, shape and place) and 64 KiB at each of 256 evenly
spaced places. Equal identities prove equal small files and, for large ones, equal layout and samples: any
retrained, requantised or truncated checkpoint differs; a few bytes edited by hand between the samples do not show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

FULL_HASH_BYTES = 256 << 20
_EDGE_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 10
_NUM_SAMPLES = 256

_MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".py"}


def files_identity(files: Iterable[Path]) -> str:
    """One SHA-256 over name, size and content hash of each file, whatever their order: ``sha256:<hex>``."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        total.update(f"{file.name}\0{file.stat().st_size}\0{content_hash(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def content_hash(file: Path) -> str:
    """The SHA-256 of a file's size and bytes (of samples of them, when the file is large), in hex."""
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with file.open("rb") as stream:
        if size <= FULL_HASH_BYTES:
            while chunk := stream.read(_EDGE_BYTES):
                digest.update(chunk)
        else:
            for start, length in _sample_places(size):
                stream.seek(start)
                digest.update(stream.read(length))
    return digest.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that can change its output: weights, configuration, tokenizer, template, code."""
    return [file for file in folder.iterdir() if file.suffix in _MODEL_SUFFIXES and file.is_file()]


def _sample_places(size: int) -> Iterator[tuple[int, int]]:
    yield 0, _EDGE_BYTES
    for index in range(1, _NUM_SAMPLES + 1):
        yield size * index // (_NUM_SAMPLES + 1), _SAMPLE_BYTES
    yield size - _EDGE_BYTES, _EDGE_BYTES
