"""Disks that die, stop, refuse or keep a record at a chosen call."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from runner.output.disk import Disk


class CountingDisk(Disk):
    """Counts the calls that change or sync something, and keeps their names."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        self.calls.append((call, path))
        self.reached(len(self.calls))

    def reached(self, number: int) -> None:
        """Comes before call ``number``, counted from 1."""


class Dead(BaseException):
    """The process was killed; nothing of it goes on."""


class DyingDisk(CountingDisk):
    """A death within this process: after ``die_at`` calls every further one raises `Dead`."""

    die_at: int | None = None

    def reached(self, number: int) -> None:
        if self.die_at is not None and number > self.die_at:
            raise Dead


class KillingDisk(CountingDisk):
    """SIGKILL before call ``at``; with ``torn``, in the middle of it where it is a write."""

    def __init__(self, at: int, *, torn: bool = False) -> None:
        super().__init__()
        self._at = at
        self._torn = torn

    def reached(self, number: int) -> None:
        if number == self._at and not (self._torn and self.calls[-1][0] == "write"):
            os.kill(os.getpid(), signal.SIGKILL)

    def write_some(self, fd: int, path: Path, data: memoryview) -> int:
        if len(self.calls) == self._at:
            os.write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write_some(fd, path, data)


class StoppingDisk(CountingDisk):
    """SIGSTOP before call ``at``: the process sleeps until someone continues it."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def reached(self, number: int) -> None:
        if number == self._at:
            os.kill(os.getpid(), signal.SIGSTOP)


class RefusingDisk(CountingDisk):
    """Raises ``errno`` at call ``at``, and at every later write when ``for_good``."""

    def __init__(self, at: int, errno: int, *, for_good: bool = False) -> None:
        super().__init__()
        self._at = at
        self._errno = errno
        self._for_good = for_good

    def reached(self, number: int) -> None:
        call = self.calls[-1][0]
        if number == self._at or (self._for_good and number > self._at and call in ("write", "sync", "create")):
            raise OSError(self._errno, os.strerror(self._errno))


class SlowDisk(Disk):
    """Gives other processes the time to get in between any two calls."""

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        time.sleep(0.0005)
