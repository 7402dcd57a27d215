"""Commit records: which ranges are done, and what their parts must look like.

A record's name carries its range and generation and comes to be only once, through link(): the commit point.
The highest generation of a range counts. A record without data is a tombstone: the range is to be done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from runner.errors import DamageError
from runner.output.disk import Disk
from runner.output.layout import DATA, ERRORS, Layout, commit_key
from runner.output.sealed import Broken, digest, seal, unseal


@dataclass(frozen=True)
class Part:
    """One part file as it must be: lines, size in bytes, SHA-256 of the file."""

    rows: int
    bytes: int
    sha256: str


@dataclass
class Totals:
    """Sums over finished input rows.

    ``samples`` counts lines of data/, ``failed_rows`` rows with an error, ``failed_samples`` the samples that
    the errors stand for, ``empty_rows`` rows that left neither data nor errors, ``errors`` records by code,
    ``finish_reasons`` lines of data/ by reason.
    """

    rows: int = 0
    samples: int = 0
    failed_rows: int = 0
    failed_samples: int = 0
    empty_rows: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, dict(Counter(mine) + Counter(value)) if isinstance(value, dict) else mine + value)

    def remove(self, other: Totals) -> None:
        """Takes back what `add` added."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, dict(Counter(mine) - Counter(value)) if isinstance(value, dict) else mine - value)


@dataclass(frozen=True)
class Commit:
    """Input rows [start, stop) are done; ``attempt`` staged the parts, which have seen ``reruns``."""

    index: int
    generation: int
    start: int
    stop: int
    attempt: int
    fingerprint: str
    data: Part | None
    errors: Part | None
    totals: Totals
    reason: str = ""
    reruns: list[str] = field(default_factory=list)

    @property
    def is_tombstone(self) -> bool:
        return self.data is None

    def part(self, kind: str) -> Part | None:
        return {DATA: self.data, ERRORS: self.errors}[kind]

    def parts(self) -> list[tuple[str, Part]]:
        return [(kind, part) for kind in (DATA, ERRORS) if (part := self.part(kind)) is not None]

    def digest(self) -> str:
        """What the parts hold, whoever wrote them."""
        return digest([self.index, self.generation, [part.sha256 for _, part in self.parts()]])


def write_commit(disk: Disk, layout: Layout, commit: Commit) -> bool:
    """Commits; False when another writer has committed this generation. Durable on return."""
    return disk.create_once(layout.commit(commit.index, commit.generation), seal(asdict(commit)))


def read_commit(disk: Disk, layout: Layout, index: int, generation: int) -> Commit:
    """One record; raises `DamageError`."""
    path = layout.commit(index, generation)
    try:
        record = unseal(disk.read(path))
        if (record["index"], record["generation"]) != (index, generation):
            raise Broken("it is the record of another range")
        return _commit(record)
    except (Broken, KeyError, TypeError) as error:
        raise DamageError(
            f"output.dir: {path}: damaged commit record ({error}); run python -m runner.repair {layout.root}"
        ) from error


def _commit(record: dict[str, Any]) -> Commit:
    for kind in (DATA, ERRORS):
        if record[kind] is not None:
            record[kind] = Part(**record[kind])
    return Commit(**{**record, "totals": Totals(**record["totals"])})


def newest_generations(disk: Disk, layout: Layout) -> dict[int, int]:
    """The highest generation of each range that has a record, from names alone."""
    newest: dict[int, int] = {}
    for name in disk.names(layout.commits):
        key = commit_key(name)
        if key is not None and key[1] > newest.get(key[0], 0):
            newest[key[0]] = key[1]
    return newest


def read_commits(disk: Disk, layout: Layout) -> dict[int, Commit]:
    """The record that counts for each range, by range."""
    newest = newest_generations(disk, layout)
    return {index: read_commit(disk, layout, index, newest[index]) for index in sorted(newest)}


class StateDigest:
    """One hash of all parts that count, whatever the order they came in; cheap to keep up to date."""

    def __init__(self, commits: Iterable[Commit] = ()) -> None:
        self._sum = 0
        for commit in commits:
            self.add(commit)

    def add(self, commit: Commit) -> None:
        self._sum += int(commit.digest(), 16)

    def remove(self, commit: Commit) -> None:
        self._sum -= int(commit.digest(), 16)

    def hex(self) -> str:
        return f"{self._sum % (1 << 128):032x}"
