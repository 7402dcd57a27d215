"""Marks what is damaged, so that the next run does exactly that again."""

from __future__ import annotations

from pathlib import Path

from runner.errors import LockedError, StorageError
from runner.output.commits import Commit, Totals, newest_generations, write_commit
from runner.output.folder import Folder, guard
from runner.output.layout import KINDS
from runner.output.recovery import set_aside
from runner.output.verification import Damage, Report, leftovers, verify


def repair(path: str | Path) -> Report:
    """Verifies the folder and marks each damaged range by a tombstone; returns what `verify` found.

    Damaged and foreign files move to `.runner/damaged/`; good ranges are not touched. All that is deleted is what is
    left in the stage and the journals of a job that is done and whole.
    Raises as `verify` does, and StorageError, with nothing marked, where the disk does not give a file.
    """
    report = verify(path)
    folder = report.folder
    if report.unreadable:
        raise StorageError(f"{report.unreadable[0]}; nothing was marked: repair again once the disk gives it")
    if report.damages:
        with guard(folder.layout):
            folder.retract_success()
            for place in (*(folder.layout.root / kind for kind in KINDS), folder.layout.commits):
                folder.disk.make_dir(place)  # one that was deleted is damage like any other
            for index in sorted({damage.index for damage in report.damages if damage.index is not None}):
                _mark(folder, index, report.damages)
            for damage in report.damages:
                if damage.index is None:
                    _move_away(folder, damage.path)
            folder.sync_parts()
            folder.write_card()
            folder.disk.sync_dir(folder.layout.root)
    elif folder.disk.size(folder.layout.success) is not None:
        with guard(folder.layout):
            for leftover in leftovers(folder):
                folder.disk.unlink(leftover)
    return report


def _mark(folder: Folder, index: int, damages: list[Damage]) -> None:
    generation = newest_generations(folder.disk, folder.layout).get(index, 0) + 1
    commit = folder.commits.get(index)
    tombstone = Commit(
        index=index,
        generation=generation,
        start=commit.start if commit else 0,
        stop=commit.stop if commit else 0,
        attempt=0,
        fingerprint=folder.job.fingerprint_digest(),
        data=None,
        errors=None,
        totals=Totals(),
        reason="; ".join(str(damage) for damage in damages if damage.index == index),
    )
    if not write_commit(folder.disk, folder.layout, tombstone):
        raise LockedError(f"{folder.layout.root}: a run became active; repair again once it has ended")
    folder.add_commit(tombstone)
    set_aside(folder, tombstone)


def _move_away(folder: Folder, path: Path) -> None:
    """Out of the readers' sight, under a name that no other file has there."""
    kind = f"{path.parent.name}-" if path.parent.name in KINDS else ""
    target = folder.layout.damaged / f"{kind}{path.name}"
    number = 1
    while folder.disk.size(target) is not None:
        number += 1
        target = folder.layout.damaged / f"{kind}{path.name}.{number}"
    folder.disk.rename(path, target)
