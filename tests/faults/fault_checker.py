"""Exactly once, identical to the uninterrupted run, redo within bound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.dataset

from runner.output.verification import verify


def contents(path: Path) -> dict[str, bytes]:
    """The files that readers see, by name under the folder."""
    return {
        item.relative_to(path).as_posix(): item.read_bytes()
        for kind in ("data", "errors")
        for item in sorted((path / kind).glob("*"))
    }


def check_readable(path: Path, reference: Mapping[str, bytes]) -> None:
    """Holds at every instant: readers see whole, committed parts or none."""
    for name, data in contents(path).items():
        assert data == reference[name], f"{name} is not a whole part"
    card = path / "README.md"
    if card.exists():
        text = card.read_text()
        assert text.startswith("---\n") and "description" in text and text.endswith("```\n")
    if (path / "_SUCCESS").exists():
        assert contents(path).keys() == reference.keys(), "_SUCCESS stands beside an unfinished folder"


def check_whole(path: Path, reference: Mapping[str, bytes]) -> None:
    """Holds after the last run."""
    found = contents(path)
    assert found.keys() == reference.keys()
    assert all(found[name] == reference[name] for name in reference), "a part differs from the uninterrupted run's"
    assert (path / "_SUCCESS").exists()
    report = verify(path)
    assert report.damages == []
    assert f'description: "{report.folder.success_record()["digest"]}"' in (path / "README.md").read_text()
    table = pyarrow.dataset.dataset(path / "data", format="ipc").to_table(columns=["row_id", "sample_index"])
    keys = list(zip(*table.to_pydict().values(), strict=True))
    assert len(keys) == len(set(keys)) == report.folder.totals().samples


def check_redo(path: Path) -> None:
    """No row that a flush had made durable was generated again."""
    flushed: set[str] = set()
    log = Path(f"{path}.log")
    for line in log.read_text().splitlines() if log.exists() else []:
        kind, row = line.split()
        if kind == "f":
            flushed.add(row)
        else:
            assert row not in flushed, f"row {row} was durable and is generated again"
