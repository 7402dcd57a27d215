"""Files for people, such as an export or a report: they appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.output.disk import sync_path

_log = logging.getLogger(__name__)


@contextmanager
def whole_or_nothing(target: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A path in ``scratch`` to write to, by default beside the target; of its file system in any case.

    On success its file is made durable and gets the target's name. Raises OSError.
    """
    path = (scratch or target.parent) / f".{target.name}.{os.getpid()}.tmp"
    try:
        with path.open("wb") as claim:
            with suppress(OSError):  # not every file system has locks; without them nothing is swept
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(target, path)
            yield path
            sync_path(path)
            path.rename(target)
            sync_path(target.parent)
    finally:
        path.unlink(missing_ok=True)


def _sweep(target: Path, own: Path) -> None:
    """Removes what killed writers of this target have left: nobody holds their locks."""
    for path in own.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):  # another one's, or gone
            if path != own:
                with path.open("rb") as left:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                _log.info("removed %s, which a killed command has left", path)
