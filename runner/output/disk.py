"""Every call that the output makes to the file system, in one place.

A refused call becomes a `StorageError` that names the path. Tests subclass `Disk` to count, record, fail or
kill at any call; nothing else in this room touches the file system.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import StorageError

Bytes = bytes | memoryview


class Disk:
    """The file system as the output uses it. Paths are absolute or relative to the working folder."""

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        """Comes before each call that changes or syncs something; nothing here, tests override it."""

    def make_dir(self, path: Path) -> bool:
        """Makes one folder; False when it was there."""
        with _refusal(path):
            if path.is_dir():
                return False
            self.before("make_dir", path)
            path.mkdir(exist_ok=True)
            return True

    def create(self, path: Path, *, exclusive: bool = False) -> int:
        """Opens a new file for writing and returns its descriptor."""
        with _refusal(path):
            self.before("create", path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if exclusive else os.O_TRUNC)
            return os.open(path, flags, 0o644)

    def write(self, fd: int, path: Path, data: Bytes) -> None:
        """Writes all of ``data``, however many calls that takes."""
        rest = memoryview(data)
        with _refusal(path):
            while len(rest):
                self.before("write", path)
                rest = rest[self.write_some(fd, path, rest) :]

    def write_some(self, fd: int, path: Path, data: memoryview) -> int:
        return os.write(fd, data)

    def sync(self, fd: int, path: Path) -> None:
        """Makes the file's content durable. A failure is final: the kernel may have dropped the dirty pages."""
        with _refusal(path):
            self.before("sync", path)
            os.fsync(fd)

    def close(self, fd: int, path: Path) -> None:
        with _refusal(path):
            os.close(fd)

    def sync_dir(self, path: Path) -> None:
        """Makes the folder's entries durable."""
        with _refusal(path):
            self.before("sync_dir", path)
            sync_path(path)

    def sync_again(self, path: Path) -> None:
        """Makes a file durable, if it is there, that a killed process may have left in the kernel's hands only."""
        with _refusal(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        try:
            self.sync(fd, path)
        finally:
            self.close(fd, path)

    def rename(self, source: Path, target: Path) -> bool:
        """Moves a file over ``target``; False when the source is no longer there."""
        with _refusal(target):
            self.before("rename", source, target)
            try:
                source.rename(target)
            except FileNotFoundError:
                return False
            return True

    def link(self, source: Path, target: Path) -> bool:
        """Gives a file a second name; False when that name is taken. Of two racing callers one wins."""
        with _refusal(target):
            self.before("link", source, target)
            try:
                os.link(source, target)
            except FileExistsError:
                return False
            return True

    def unlink(self, path: Path) -> None:
        """Removes a file if it is there."""
        with _refusal(path):
            if path.is_symlink() or path.exists():
                self.before("unlink", path)
                path.unlink(missing_ok=True)

    def remove_dir(self, path: Path) -> None:
        """Removes a folder and what it holds, if it is there."""
        if self.is_dir(path):
            for name in self.names(path):
                child = path / name
                if child.is_dir() and not child.is_symlink():
                    self.remove_dir(child)
                else:
                    self.unlink(child)
            self.remove_empty_dir(path)

    def remove_empty_dir(self, path: Path) -> None:
        """Removes a folder that holds nothing, if it is there; another process may be faster."""
        with _refusal(path), suppress(FileNotFoundError):
            self.before("remove_dir", path)
            path.rmdir()

    def read(self, path: Path) -> bytes:
        with _refusal(path):
            return path.read_bytes()

    def read_if_there(self, path: Path) -> bytes | None:
        """The file's content, None when there is no such file (any more)."""
        with _refusal(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def size(self, path: Path) -> int | None:
        """The file's size in bytes, None when there is no such file, also where a folder of its path is a file."""
        with _refusal(path):
            try:
                return path.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def changed_ns(self, path: Path) -> int | None:
        """When the file last changed, in nanoseconds by the file system's clock; None when there is no such file."""
        with _refusal(path):
            try:
                return path.stat().st_mtime_ns
            except FileNotFoundError:
                return None

    def touch(self, path: Path) -> None:
        """Marks an existing file as changed now."""
        with _refusal(path):
            os.utime(path)

    def is_dir(self, path: Path) -> bool:
        with _refusal(path):
            return path.is_dir()

    def names(self, path: Path) -> list[str]:
        """The names in a folder, sorted; none when there is no such folder."""
        with _refusal(path):
            try:
                return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths: 100,000 commits in one folder
            except FileNotFoundError:
                return []

    def write_synced(self, path: Path, data: Bytes) -> None:
        """Writes a whole new file and makes its content (not yet its name) durable."""
        fd = self.create(path)
        try:
            self.write(fd, path, data)
            self.sync(fd, path)
        finally:
            self.close(fd, path)

    def replace(self, path: Path, data: Bytes, scratch: Path) -> None:
        """Replaces a file as a whole: readers see the old content or the new. The name is not yet durable."""
        temp = temp_name(scratch / path.name)
        self.write_synced(temp, data)
        self.rename(temp, path)

    def claim(self, path: Path, data: Bytes) -> bool:
        """Takes a name for good; False when it is taken. Not durable."""
        try:
            fd = self.create(path, exclusive=True)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        try:
            self.write(fd, path, data)
        finally:
            self.close(fd, path)
        return True

    def create_once(self, path: Path, data: Bytes) -> bool:
        """Writes a file that may come to be only once; False when another writer was first.

        Through link(), because rename() lets two racing writers both believe that they won; from a temp
        beside, because some parallel file systems link only within one folder. Durable on return.
        """
        temp = temp_name(path)
        self.write_synced(temp, data)
        won = self.link(temp, path)
        self.sync_dir(path.parent)
        self.unlink(temp)
        return won


def temp_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer picks and no loader reads."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync_path(path: Path) -> None:
    """Makes the content of a closed file, or the entries of a folder, durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _refusal(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"output.dir: {path}: {reason}; once that is solved, run the same command again") from error
