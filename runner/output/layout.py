"""Where everything lies in an output folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DATA = "data"
ERRORS = "errors"
KINDS = (DATA, ERRORS)

_PART = re.compile(r"part-(\d{5,})\.arrow")
_COMMIT = re.compile(r"part-(\d{5,})\.g(\d+)\.json")
_STAGED = re.compile(r"(?:data|errors)-(\d{5,})\.g(\d+)\.arrow")
_LOCK = re.compile(r"(\d+)-of-(\d+)\.lock")
_LEASE = re.compile(r"part-(\d{5,})\.e(\d+)")
_HOLDER = re.compile(r"\.(\d{6,})\.json")
_JOURNAL = re.compile(r"(\d{6,})-(\d{4,})\.arrows")


@dataclass(frozen=True)
class Layout:
    """The paths of one output folder. A *part* is what one range of input rows came to."""

    root: Path

    @property
    def card(self) -> Path:
        return self.root / "README.md"

    @property
    def success(self) -> Path:
        return self.root / "_SUCCESS"

    @property
    def hidden(self) -> Path:
        """Dot-named, so that loaders of the root never read what it holds."""
        return self.root / ".runner"

    @property
    def job(self) -> Path:
        return self.hidden / "job.json"

    @property
    def commits(self) -> Path:
        return self.hidden / "commits"

    @property
    def stage(self) -> Path:
        return self.hidden / "stage"

    @property
    def journals(self) -> Path:
        return self.hidden / "journals"

    @property
    def attempts(self) -> Path:
        return self.hidden / "attempts"

    @property
    def locks(self) -> Path:
        return self.hidden / "locks"

    @property
    def leases(self) -> Path:
        return self.hidden / "leases"

    @property
    def damaged(self) -> Path:
        """Where `repair` puts what it takes away."""
        return self.hidden / "damaged"

    def hidden_dirs(self) -> tuple[Path, ...]:
        return (self.commits, self.stage, self.journals, self.attempts, self.locks, self.leases, self.damaged)

    def part(self, kind: str, index: int) -> Path:
        return self.root / kind / f"part-{index:05d}.arrow"

    def stage_of(self, attempt: int) -> Path:
        return self.stage / f"{attempt:06d}"

    def staged(self, attempt: int, kind: str, index: int, generation: int) -> Path:
        return self.stage_of(attempt) / f"{kind}-{index:05d}.g{generation}.arrow"

    def commit(self, index: int, generation: int) -> Path:
        return self.commits / f"part-{index:05d}.g{generation}.json"

    def attempt(self, number: int) -> Path:
        return self.attempts / f"{number:06d}.json"

    def journal(self, attempt: int, segment: int) -> Path:
        return self.journals / f"{attempt:06d}-{segment:04d}.arrows"

    def lock(self, partition: tuple[int, int]) -> Path:
        return self.locks / f"{partition[0]}-of-{partition[1]}.lock"

    def attempt_lock(self, number: int) -> Path:
        """Held by an attempt without a fixed partition for as long as it lives."""
        return self.locks / f"attempt-{number:06d}.lock"

    def holder(self, attempt: int) -> Path:
        """The file that every lease of an attempt is a link to; its time of change is the attempt's sign of life."""
        return self.leases / f".{attempt:06d}.json"

    def lease(self, index: int, epoch: int) -> Path:
        return self.leases / f"part-{index:05d}.e{epoch}"


def part_index(name: str) -> int | None:
    """The range of a part file's name, None for another file."""
    match = _PART.fullmatch(name)
    return int(match[1]) if match else None


def commit_key(name: str) -> tuple[int, int] | None:
    """(range, generation) of a commit record's name, None for another file."""
    match = _COMMIT.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def journal_key(name: str) -> tuple[int, int] | None:
    """(attempt, segment) of a journal's name, None for another file."""
    match = _JOURNAL.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def staged_key(name: str) -> tuple[int, int] | None:
    """(range, generation) of a staged part's name, None for another file."""
    match = _STAGED.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def locked_partition(name: str) -> tuple[int, int] | None:
    """The partition of a lock's name, None for the lock of an attempt that leases ranges."""
    match = _LOCK.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def lease_key(name: str) -> tuple[int, int] | None:
    """(range, epoch) of a lease's name, None for another file."""
    match = _LEASE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def holder_number(name: str) -> int | None:
    """The attempt of a holder file's name, None for another file."""
    match = _HOLDER.fullmatch(name)
    return int(match[1]) if match else None
