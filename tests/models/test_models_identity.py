"""What an identity proves."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.models import identity
from runner.models.identity import content_hash, files_identity


def test_small_files_are_hashed_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    data = bytearray(100_000)
    hashes = set()
    for place in (0, 50_001, 99_999):
        data[place] ^= 1
        file.write_bytes(data)
        hashes.add(content_hash(file))
    assert len(hashes) == 3


def test_large_files_by_size_edges_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "FULL_HASH_BYTES", 1 << 20)
    file = tmp_path / "f"
    size = 300 << 20
    hashes = []
    for place in (None, 0, size // 257, size - 1):
        with file.open("wb") as stream:
            stream.truncate(size)
            if place is not None:
                stream.seek(place)
                stream.write(b"x")
        hashes.append(content_hash(file))
    with file.open("wb") as stream:
        stream.truncate(size - 1)
    hashes.append(content_hash(file))
    assert len(set(hashes)) == 5


def test_order_does_not_matter_but_names_do(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    for file in (first, second, third):
        file.write_bytes(b"same")
    assert files_identity([first, second]) == files_identity([second, first])
    assert files_identity([first, second]) != files_identity([first, third])
