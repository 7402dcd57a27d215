"""One opened output folder, and what is done to it as a whole: publishing, the card, sweeping, starting over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from runner.errors import ConfigError, DamageError, LockedError, StorageError
from runner.output.card import render_card
from runner.output.columns import Columns
from runner.output.commits import Commit, StateDigest, Totals, newest_generations, read_commits
from runner.output.disk import Disk
from runner.output.job import JobRecord
from runner.output.layout import DATA, ERRORS, KINDS, Layout, part_index
from runner.output.lock import FolderLock, held_locks
from runner.output.ranges import bounds, is_covered, num_ranges
from runner.output.rerun import Rerun
from runner.output.sealed import seal
from runner.output.shards import check_part

_GUARD_SECONDS = 60.0


@dataclass
class Folder:
    """An output folder with its job. ``commits`` holds the record that counts for each range known here.

    ``rerun`` is what this run does in the place of what is missing.
    """

    disk: Disk
    layout: Layout
    job: JobRecord
    columns: Columns
    commits: dict[int, Commit] = field(default_factory=dict)
    rerun: Rerun | None = None

    def __post_init__(self) -> None:
        self._digest = StateDigest()

    def load_commits(self) -> None:
        """Reads the records of all partitions."""
        self.commits = read_commits(self.disk, self.layout)
        self._digest = StateDigest(commit for commit in self.commits.values() if not commit.is_tombstone)

    def add_commit(self, commit: Commit) -> None:
        """Counts a new record in the place of the range's older one."""
        old = self.commits.get(commit.index)
        if old is not None and not old.is_tombstone:
            self._digest.remove(old)
        self.commits[commit.index] = commit
        if not commit.is_tombstone:
            self._digest.add(commit)

    def totals(self) -> Totals:
        """The sums over all committed ranges."""
        totals = Totals()
        for commit in self.commits.values():
            if not commit.is_tombstone:
                totals.add(commit.totals)
        return totals

    def is_published(self, commit: Commit) -> bool:
        """Whether the parts are in place, judged by their size and by nothing waiting on the stage."""
        layout, disk = self.layout, self.disk
        for kind, part in commit.parts():
            if disk.size(layout.staged(commit.attempt, kind, commit.index, commit.generation)) is not None:
                return False
            if disk.size(layout.part(kind, commit.index)) != part.bytes:
                return False
        return True

    def publish(self, commit: Commit) -> None:
        """Moves a commit's parts from the stage to their names; harmless when they are there already.

        A writer that slept through its own publication finds nothing staged, so it moves nothing over a newer
        generation. Raises `DamageError` when a committed part is nowhere.
        """
        for kind, part in commit.parts():
            target = self.layout.part(kind, commit.index)
            self.disk.rename(self.layout.staged(commit.attempt, kind, commit.index, commit.generation), target)
            if self.disk.size(target) != part.bytes and not self.is_superseded(commit):
                raise DamageError(
                    f"output.dir: {target} is missing or damaged; run python -m runner.repair {self.layout.root}"
                )

    def is_superseded(self, commit: Commit) -> bool:
        """Whether another run has committed a newer generation of the same range."""
        return newest_generations(self.disk, self.layout).get(commit.index, 0) > commit.generation

    def read_parts(self, commit: Commit) -> tuple[pa.Table, pa.Table | None]:
        """Data and errors of a published commit; raises `DamageError`, or `LockedError` once it is superseded."""
        tables: dict[str, pa.Table] = {}
        schemas = {DATA: self.columns.data, ERRORS: self.columns.errors}
        for kind, part in commit.parts():
            path = self.layout.part(kind, commit.index)
            try:
                tables[kind] = check_part(self.disk.read(path), part, schemas[kind])
            except (ValueError, StorageError) as error:
                if self.is_superseded(commit):
                    raise LockedError(f"output.dir: another runner works on {self.layout.root}; stop one") from error
                raise DamageError(
                    f"output.dir: {path} is damaged ({error}); run python -m runner.repair {self.layout.root}"
                ) from error
        return tables[DATA], tables.get(ERRORS)

    def sync_parts(self) -> None:
        for kind in KINDS:
            self.disk.sync_dir(self.layout.root / kind)

    def refresh_card(self) -> None:
        """Brings the card up to the commits known here, unless the job is done: that folder has its last card.

        A writer that was stopped and wakes up must not go back behind it.
        """
        with guard(self.layout):
            if self.disk.size(self.layout.success) is None:
                self.write_card()

    def mend_card(self) -> None:
        """Replaces the card of a job that is done if it is not its last one: a stale writer put back an older one."""
        card = self.disk.read_if_there(self.layout.card)
        if card is None or self._digest.hex().encode() not in card:
            with guard(self.layout):
                self.write_card()
                self.disk.sync_dir(self.layout.root)

    def write_card(self) -> None:
        """Replaces the card by one for the commits known here. Its name is not yet durable."""
        has_errors = any(map(self._has_lines, self.disk.names(self.layout.root / ERRORS)))
        card = render_card(self.job.name, str(self.layout.root), self._digest.hex(), has_errors=has_errors)
        self.disk.replace(self.layout.card, card, self.layout.hidden)

    def _has_lines(self, name: str) -> bool:
        """Whether a file of errors/ holds any; a rerun may have left none, and an empty config does not load."""
        index = part_index(name)
        commit = self.commits.get(index) if index is not None else None
        return index is not None and (commit is None or commit.errors is None or commit.errors.rows > 0)

    def is_complete(self, num_rows: int) -> bool:
        """Whether every range of every partition is committed and in place."""
        for index in range(num_ranges(self.job, num_rows)):
            commit = self.commits.get(index)
            if commit is None or not is_covered(commit, bounds(self.job, index, num_rows)[1]):
                return False
            if not self.is_published(commit):
                return False
        return True

    def succeed(self) -> None:
        """Drops what only an unfinished job needs, then says that the job is done. Durable on return."""
        layout = self.layout
        for folder in (layout.journals, layout.stage, layout.leases):
            for name in self.disk.names(folder):
                _remove(self.disk, folder / name)
        for folder in (layout.commits, layout.hidden):
            for name in self.disk.names(folder):
                if name.endswith(".tmp"):
                    self.disk.unlink(folder / name)
        self.disk.sync_dir(layout.root)
        self.disk.replace(layout.success, seal(self.success_record()), layout.hidden)
        self.disk.sync_dir(layout.root)

    def retract_success(self) -> None:
        """There is work to do: an earlier success no longer stands for the whole folder."""
        if self.disk.size(self.layout.success) is not None:
            self.disk.unlink(self.layout.success)
            self.disk.sync_dir(self.layout.root)

    def success_record(self) -> dict[str, object]:
        return {**vars(self.totals()), "parts": len(self.commits), "digest": self._digest.hex()}


def guard(layout: Layout) -> FolderLock:
    """Held while something that all partitions share is replaced."""
    return FolderLock(layout.locks / "folder", wait_seconds=_GUARD_SECONDS)


def _remove(disk: Disk, path: Path) -> None:
    if disk.is_dir(path):
        disk.remove_dir(path)
    else:
        disk.unlink(path)


def make_folder(disk: Disk, layout: Layout) -> None:
    """Makes the folder and its hidden part.

    Syncs also what was there: a killed process may have made it and not come to syncing it. The hidden
    folder's own entries become durable with the job record.
    """
    missing = [path for path in layout.root.parents if not disk.is_dir(path)]
    for path in reversed(missing):
        disk.make_dir(path)
        disk.sync_dir(path.parent)
    disk.make_dir(layout.root)
    disk.sync_dir(layout.root.parent)
    disk.make_dir(layout.hidden)
    for path in layout.hidden_dirs():
        disk.make_dir(path)


def make_part_dirs(disk: Disk, layout: Layout) -> None:
    for kind in KINDS:
        disk.make_dir(layout.root / kind)
    disk.sync_dir(layout.root)


def refuse_foreign(disk: Disk, layout: Layout) -> None:
    """A folder without a job of ours must not hold files where ours would go."""
    ours = {layout.card.name, layout.success.name, DATA, ERRORS}
    taken = sorted(ours.intersection(disk.names(layout.root)))
    if taken:
        cure = "output.overwrite=true removes them" if disk.is_dir(layout.hidden) else "choose another output.dir"
        raise ConfigError(f"output.dir: {layout.root} holds {', '.join(taken)} but no job of this runner; {cure}")


def refuse_busy(disk: Disk, layout: Layout, mine: Path | None = None) -> None:
    """Only a former output of ours that nobody works on may be removed; ``mine`` is a lock of this process."""
    if not disk.is_dir(layout.hidden):
        refuse_foreign(disk, layout)
    elif held := held_locks(layout.locks, mine):
        raise LockedError(
            f"output.overwrite: another runner works on {layout.root} (partition {held[0]}); "
            "stop it first (start over with one runner before you start the other partitions)"
        )


def clear_folder(disk: Disk, layout: Layout, marker: Path | None = None, lock: Path | None = None) -> None:
    """Removes a former output, and nothing that is not one. Raises `LockedError` while a runner works on it.

    The ``marker`` of this run's attempt stays, and with its ``lock`` all lock files: a file that is locked must
    keep its name. The data goes last: what is left by a run that was killed on the way is refused as no job of ours.
    """
    refuse_busy(disk, layout, lock)
    for path in (layout.success, layout.job, layout.card):
        disk.unlink(path)
    for name in disk.names(layout.attempts):
        if layout.attempts / name != marker:
            disk.unlink(layout.attempts / name)
    kept = {path.parent for path in (marker, lock) if path is not None}
    for name in disk.names(layout.hidden):
        if layout.hidden / name not in kept:
            _remove(disk, layout.hidden / name)
    if disk.is_dir(layout.hidden):
        disk.sync_dir(layout.hidden)
    for path in (layout.root / ERRORS, layout.root / DATA):
        disk.remove_dir(path)
    if not kept:
        disk.remove_dir(layout.hidden)


def start_over(path: str | Path) -> None:
    """Removes a former output. Raises as `clear_folder` does, and ConfigError for a folder that is not ours."""
    clear_folder(Disk(), Layout(Path(path)))
