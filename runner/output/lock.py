"""One runner per output folder and partition."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from runner.errors import LockedError, StorageError

_POLL_SECONDS = 0.1
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderLock:
    """fcntl.lockf on a file that nothing else opens: closing it elsewhere in this process would drop the lock.

    The kernel drops it with the process, however that ends. (flock would live on in a forked child.)
    """

    def __init__(self, path: Path, *, wait_seconds: float = 0.0) -> None:
        """Raises `LockedError` when another process still holds it after ``wait_seconds``."""
        self.path = path
        deadline = time.monotonic() + wait_seconds
        self._fd = self._open()
        try:
            while not self._try():
                if time.monotonic() >= deadline:
                    raise LockedError(
                        f"output.dir: another runner works on {path.parent.parent.parent} "
                        f"(partition {path.stem}); wait for it or stop it"
                    )
                time.sleep(_POLL_SECONDS)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"output.dir: {self.path}: {error.strerror}") from error

    def _try(self) -> bool:
        """Whether the lock is held now. A file that lost its name meanwhile locks nothing: the next one counts."""
        if not self._lock():
            return False
        if self._has_name():
            return True
        nameless, self._fd = self._fd, self._open()
        os.close(nameless)
        return False

    def _has_name(self) -> bool:
        try:
            named = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _lock(self) -> bool:
        return _lock(self._fd, self.path, fcntl.LOCK_EX)

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()


def _lock(fd: int, path: Path, kind: int) -> bool:
    """Takes LOCK_EX or LOCK_SH; False when another process holds one that forbids it."""
    try:
        fcntl.lockf(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in _NO_LOCKS:
            raise StorageError(
                f"output.dir: {path}: this file system has no locks (Lustre: mount with -o flock); "
                "choose another output.dir"
            ) from error
        raise StorageError(f"output.dir: {path}: {error.strerror}") from error
    return True


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock now; a file that is not there is held by nobody.

    Tries a shared one: of two that look at once, neither must take the other for a holder.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"output.dir: {path}: {error.strerror}") from error
    try:
        return not _lock(fd, path, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def supports_leases(folder: Path) -> bool:
    """Whether links and locks work in a folder; makes it if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    names = (probe, probe.with_suffix(".link"))
    try:
        FolderLock(probe).release()
        names[1].hardlink_to(probe)
        return True
    except (OSError, StorageError):
        return False
    finally:
        for name in names:
            name.unlink(missing_ok=True)


def held_locks(folder: Path, mine: Path | None = None) -> list[str]:
    """The partitions ("0-of-1") whose lock another process holds now; of a read-only copy, none.

    ``mine`` is a lock that this process holds: to try it would drop it.
    """
    tried = (path for path in sorted(folder.glob("*.lock")) if path != mine and os.access(path, os.W_OK))
    return [path.stem for path in tried if is_locked(path)]
