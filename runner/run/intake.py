"""The input of this run: the inventory that the output folder recorded, or a fresh one."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from runner.config import RunnerConfig
from runner.errors import ConfigError
from runner.input import Change, Inventory, build_inventory, compare_inventory, extend_inventory
from runner.output import recorded_job

logger = logging.getLogger(__name__)

_LOG_SECONDS = 10.0


def take_stock(config: RunnerConfig, folder: Path) -> Inventory:
    """Row ids never move: recorded files keep their places and new ones come after them.

    Raises ConfigError when a recorded file has changed or is gone.
    """
    job = None if config.output.overwrite else recorded_job(folder)
    if job is None:
        return build_inventory(config.input, folder, _ScanLog())
    recorded = Inventory.from_json(job.inventory)
    found = compare_inventory(recorded, config.input, folder)
    if found.change is Change.CHANGED:
        raise ConfigError(
            f"input.path: the input is not the one that this job began with: {'; '.join(found.differences)}; "
            "put it back, or start over with output.overwrite=true"
        )
    if job.fingerprint.get("input.limit") != config.input.limit:
        paths = [file.path for file in recorded.files] + list(found.new_files)
        return build_inventory(replace(config.input, path=paths), folder, _ScanLog())
    if found.change is Change.EXTENDED:
        logger.info("input.path: %d new files, after the old ones", len(found.new_files))
        return extend_inventory(recorded, found.new_files, config.input, _ScanLog())
    return recorded


class _ScanLog:
    """Says now and then how far the one pass over the input is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LOG_SECONDS

    def __call__(self, rows: int, done_bytes: int, all_bytes: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_SECONDS
            logger.info("indexing the input: %d rows, %.0f %%", rows, 100 * done_bytes / max(all_bytes, 1))
