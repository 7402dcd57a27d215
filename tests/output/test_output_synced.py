"""What is published has been synced by the kernel's own call, its folder too: a recorded intention is not enough."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


def test_parts_commits_and_their_folders_are_synced(
    tmp_path: Path, spec, generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, folders = set(), set()
    fsync = os.fsync

    def watched(fd: int) -> None:
        found = os.fstat(fd)
        (folders if stat.S_ISDIR(found.st_mode) else files).add(found.st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    out = tmp_path / "out"
    generate(out, spec)
    published = [*out.glob("data/*.arrow"), *out.glob("errors/*.arrow"), *out.glob(".runner/commits/*.json")]
    published += [out / "_SUCCESS", out / ".runner" / "job.json"]
    assert [path.name for path in published if path.stat().st_ino not in files] == []
    assert {path.parent for path in published if path.parent.stat().st_ino not in folders} == set()
