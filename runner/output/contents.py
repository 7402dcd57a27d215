"""What a folder holds, for people: sums, lengths, and lines spread over its parts. Reads only, at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError, DamageError
from runner.output.commits import Commit, Totals
from runner.output.disk import Disk
from runner.output.folder import Folder
from runner.output.job import JobRecord, columns_of, read_job
from runner.output.layout import DATA, ERRORS, Layout
from runner.output.shards import check_part


@dataclass
class Contents:
    """``lengths`` counts lines by number of tokens, for "prompt_tokens" and "completion_tokens".

    ``lines`` and ``errors`` are spread over the parts; their keys are the plain names of our columns where the
    column is ours, and ``names`` maps these to the names in the files.
    """

    job: JobRecord
    totals: Totals
    is_done: bool
    finish_reasons: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


def read_contents(path: str | Path, max_lines: int, max_errors: int) -> Contents:
    """Raises ConfigError where there is no job, DamageError for a commit record or part that cannot be read."""
    disk, layout = Disk(), Layout(Path(path))
    job = read_job(disk, layout)
    if job is None:
        raise ConfigError(f"{path}: there is no job of this runner; give the folder that holds data/ and .runner/")
    folder = Folder(disk, layout, job, columns_of(job))
    folder.load_commits()
    found = Contents(job, folder.totals(), disk.size(layout.success) is not None)
    for name in ("prompt_tokens", "completion_tokens"):
        found.lengths[name] = Counter()
    commits = [commit for _, commit in sorted(folder.commits.items()) if not commit.is_tombstone]
    _read_lines(folder, commits, found, max_lines)
    with_errors = [commit for commit in commits if commit.errors is not None]
    for commit, share in _shares(with_errors, ERRORS, max_errors):
        table = _table(folder, commit, ERRORS)
        found.errors += _some(table, share, folder.columns.error_names) if table is not None else []
    return found


def _read_lines(folder: Folder, commits: list[Commit], found: Contents, max_lines: int) -> None:
    names = folder.columns.names
    for commit, share in _shares(commits, DATA, max_lines):
        table = _table(folder, commit, DATA)
        if table is None:
            continue
        for name, counts in found.lengths.items():
            counts.update(_counts(table[names[name]]))
        found.finish_reasons.update(_counts(table[names["finish_reason"]]))
        found.lines += _some(table, share, names)


def _shares(commits: list[Commit], kind: str, wanted: int) -> Iterator[tuple[Commit, int]]:
    """How many lines to take of each part, so that they are spread evenly over all lines."""
    total = sum(part.rows for commit in commits if (part := commit.part(kind)))
    seen = 0
    for commit in commits:
        part = commit.part(kind)
        assert part is not None
        before = seen * min(wanted, total) // max(total, 1)
        seen += part.rows
        yield commit, seen * min(wanted, total) // max(total, 1) - before


def _table(folder: Folder, commit: Commit, kind: str) -> pa.Table | None:
    """The part as it was committed; None for one that is yet to be published, or has been replaced since.

    Arrow has no checksums: what is damaged is found by its hash before it is used.
    """
    layout, part = folder.layout, commit.part(kind)
    assert part is not None
    path, staged = layout.part(kind, commit.index), layout.staged(commit.attempt, kind, commit.index, commit.generation)
    is_to_come = folder.disk.size(staged) is not None  # asked before the read, as it may be published meanwhile
    try:
        content = folder.disk.read_if_there(path)
        if content is None:
            raise ValueError("it is missing")
        return check_part(content, part, folder.columns.data if kind == DATA else folder.columns.errors)
    except ValueError as error:
        if is_to_come or folder.is_superseded(commit):
            return None
        raise DamageError(
            f"{path}: {error}; run python -m runner.repair {layout.root} and then the job again"
        ) from None


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _some(table: pa.Table, wanted: int, names: Any) -> list[dict[str, Any]]:
    if not wanted:
        return []
    plain = {full: name for name, full in names.items()}
    chosen = table.take([i * table.num_rows // wanted for i in range(wanted)])
    return [{plain.get(key, key): value for key, value in row.items()} for row in chosen.to_pylist()]
