"""The input of this run: the inventory that the output folder recorded, or a fresh one."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from runner.config import RunnerConfig
from runner.errors import ConfigError
from runner.input import Change, Inventory, build_inventory, compare_inventory, extend_inventory
from runner.output import Surveyor, recorded_job
from runner.run.fingerprint import content_of
from runner.run.rerun import selection_of

logger = logging.getLogger(__name__)

_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Stock:
    """The input. ``is_new``: it takes the place of a recorded one of which no row is done."""

    inventory: Inventory
    is_new: bool = False


def take_stock(config: RunnerConfig, folder: Path) -> Stock:
    """Row ids never move: recorded files keep their places and new ones come after them.

    Raises ConfigError when a recorded file has changed or is gone, unless nothing came of the job.
    """
    job = None if config.output.overwrite else recorded_job(folder)
    if job is None:
        return Stock(build_inventory(config.input, folder, _ScanLog()))
    recorded = Inventory.from_json(job.inventory)
    found = compare_inventory(recorded, config.input, folder)
    if found.change is not Change.UNCHANGED and _came_to_nothing(config, folder):
        fresh = build_inventory(config.input, folder, _ScanLog())
        # Files that only have other names would not be recorded: by content this is the job that is there.
        if content_of(fresh) != job.fingerprint.get("input.files"):
            return Stock(fresh, is_new=True)
    if found.change is Change.CHANGED:
        raise ConfigError(
            f"input.path: the input is not the one that this job began with: {'; '.join(found.differences)}; "
            "put it back, or start over with output.overwrite=true"
        )
    if job.fingerprint.get("input.limit") != config.input.limit:
        paths = [file.path for file in recorded.files] + list(found.new_files)
        return Stock(build_inventory(replace(config.input, path=paths), folder, _ScanLog()))
    if found.change is Change.EXTENDED:
        logger.info("input.path: %d new files, after the old ones", len(found.new_files))
        return Stock(extend_inventory(recorded, found.new_files, config.input, _ScanLog()))
    return Stock(recorded)


def _came_to_nothing(config: RunnerConfig, folder: Path) -> bool:
    """Whether no row is done and nobody else began; the reservation of the folder judges it again, under its lock."""
    if selection_of(config.rerun) is not None or config.partition == "auto":
        return False
    survey = Surveyor(folder).look()
    return not survey.rows and all(
        attempt.partition == config.partition and not attempt.has_progress for attempt in survey.attempts
    )


class _ScanLog:
    """Says now and then how far the one pass over the input is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LOG_SECONDS

    def __call__(self, rows: int, done_bytes: int, all_bytes: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_SECONDS
            logger.info("indexing the input: %d rows, %.0f %%", rows, 100 * done_bytes / max(all_bytes, 1))
