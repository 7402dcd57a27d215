"""A disk that records what it was asked, and the states that a power cut could leave of it.

The model is what POSIX promises and no more: content is durable after the file's fsync, a name after its
folder's; what was not synced may be there, be lost, be torn or read as zeros. Names within one folder become
durable in order; a rename is one step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faulty_disk import Dead

from runner.output.disk import Disk


@dataclass(frozen=True)
class Event:
    """One call. ``path`` and ``other`` are relative to the base folder; ``inode`` is the file that it is about."""

    call: str
    path: str
    other: str = ""
    inode: int = 0
    data: bytes = b""

    @property
    def kind(self) -> tuple[str, str]:
        """The call and what it was about, whichever file it was."""
        path = self.other or self.path
        path = re.sub(r"/\.([^/]*)\.[0-9a-f]{8}\.tmp$", r"/\1", f"/{path}")
        return self.call, re.sub(r"\d+", "N", path)


class RecordingDisk(Disk):
    """Does the calls and records them; from call ``die_at`` on it raises `Dead` instead."""

    def __init__(self, base: Path, die_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.die_at = die_at
        self._base = base
        self._inode_of_fd: dict[int, int] = {}
        self._inode_of_path: dict[str, int] = {}
        self._inodes = 0

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        if self.die_at is not None and len(self.events) >= self.die_at:
            raise Dead

    def mark(self, rows: Iterable[int]) -> None:
        """A promise made to the caller: these rows are durable from here on."""
        self.events.append(Event("mark", " ".join(map(str, rows))))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()

    def _record(self, call: str, path: Path, other: Path | None = None, inode: int = 0, data: bytes = b"") -> None:
        there = self._relative(other) if other else ""
        self.events.append(Event(call, self._relative(path), there, inode, data))

    def make_dir(self, path: Path) -> bool:
        made = super().make_dir(path)
        if made:
            self._record("make_dir", path)
        return made

    def create(self, path: Path, *, exclusive: bool = False) -> int:
        fd = super().create(path, exclusive=exclusive)
        self._inodes += 1
        self._inode_of_fd[fd] = self._inode_of_path[self._relative(path)] = self._inodes
        self._record("create", path, inode=self._inodes)
        return fd

    def write_some(self, fd: int, path: Path, data: memoryview) -> int:
        count = super().write_some(fd, path, data)
        self._record("write", path, inode=self._inode_of_fd[fd], data=bytes(data[:count]))
        return count

    def sync(self, fd: int, path: Path) -> None:
        super().sync(fd, path)
        if fd in self._inode_of_fd:
            self._record("sync", path, inode=self._inode_of_fd[fd])
        else:
            self._record("sync_again", path, inode=self._inode_of_path[self._relative(path)])

    def close(self, fd: int, path: Path) -> None:
        self._inode_of_fd.pop(fd, None)
        super().close(fd, path)

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self._record("sync_dir", path)

    def rename(self, source: Path, target: Path) -> bool:
        done = super().rename(source, target)
        if done:
            inode = self._inode_of_path[self._relative(target)] = self._inode_of_path.pop(self._relative(source))
            self._record("rename", source, target, inode)
        return done

    def link(self, source: Path, target: Path) -> bool:
        done = super().link(source, target)
        if done:
            inode = self._inode_of_path[self._relative(target)] = self._inode_of_path[self._relative(source)]
            self._record("link", source, target, inode)
        return done

    def unlink(self, path: Path) -> None:
        there = path.exists()
        super().unlink(path)
        if there:
            self._record("unlink", path, inode=self._inode_of_path.pop(self._relative(path), 0))

    def remove_empty_dir(self, path: Path) -> None:
        there = path.is_dir()
        super().remove_empty_dir(path)
        if there:
            self._record("remove_dir", path)


@dataclass(frozen=True)
class CrashState:
    """What is on the disk after a power cut: folders, and files with their content."""

    name: str
    folders: tuple[str, ...]
    files: dict[str, bytes]

    def lay_out(self, base: Path) -> None:
        for folder in self.folders:
            (base / folder).mkdir()
        for path, data in self.files.items():
            (base / path).write_bytes(data)


_NAMING = ("make_dir", "create", "rename", "link", "unlink", "remove_dir")


def crash_states(events: list[Event]) -> Iterator[CrashState]:
    """The states that a power cut right after ``events`` may leave: the extremes, and each folder on its own."""
    pending = _pending_by_folder(events)
    everything = frozenset().union(*pending.values()) if pending else frozenset()
    yield _state("no unsynced name", events, everything, "lost")
    for content in ("lost", "torn", "zeros", "full"):
        yield _state(f"all names, unsynced content {content}", events, frozenset(), content)
    if len(pending) > 1:
        for folder, numbers in pending.items():
            yield _state(f"all names but those of {folder or 'base'}", events, numbers, "lost")
            yield _state(f"only the names of {folder or 'base'}", events, everything - numbers, "lost")


def _pending_by_folder(events: list[Event]) -> dict[str, frozenset[int]]:
    """The numbers of the naming events that no sync of their folder has followed."""
    pending: dict[str, set[int]] = {}
    for number, event in enumerate(events):
        if event.call == "sync_dir":
            pending.pop("" if event.path == "." else event.path, None)
        elif event.call in _NAMING:
            pending.setdefault((event.other or event.path).rpartition("/")[0], set()).add(number)
    return {folder: frozenset(numbers) for folder, numbers in pending.items()}


def _state(name: str, events: list[Event], lost: frozenset[int], content: str) -> CrashState:
    folders: dict[str, None] = {}
    names: dict[str, int] = {}
    for number, event in enumerate(events):
        if number in lost or event.call not in _NAMING:
            continue
        if event.call == "make_dir":
            folders[event.path] = None
        elif event.call == "remove_dir":
            folders.pop(event.path, None)
        elif event.call == "unlink":
            names.pop(event.path, None)
        else:
            names[event.other or event.path] = event.inode
            if event.call == "rename":
                names.pop(event.path, None)
    kept = tuple(folder for folder in folders if _is_reachable(folder, folders))
    data = _contents(events, content)
    files = {path: data[inode] for path, inode in names.items() if path.rpartition("/")[0] in kept}
    return CrashState(name, kept, files)


def _is_reachable(folder: str, folders: dict[str, None]) -> bool:
    return all(str(parent) in folders for parent in Path(folder).parents if str(parent) != ".")


def _contents(events: list[Event], unsynced: str) -> dict[int, bytes]:
    written: dict[int, bytes] = {}
    durable: dict[int, bytes] = {}
    for event in events:
        if event.call == "create":
            written[event.inode] = durable[event.inode] = b""
        elif event.call == "write":
            written[event.inode] += event.data
        elif event.call in ("sync", "sync_again"):
            durable[event.inode] = written[event.inode]
    return {inode: _after_cut(durable[inode], data, unsynced) for inode, data in written.items()}


def _after_cut(durable: bytes, written: bytes, unsynced: str) -> bytes:
    rest = written[len(durable) :]
    return durable + {"lost": b"", "torn": rest[: len(rest) // 2], "zeros": bytes(len(rest)), "full": rest}[unsynced]


def without(events: list[Event], kind: tuple[str, str]) -> list[Event]:
    """The recording of a program that never made the calls of this kind."""
    return [event for event in events if event.kind != kind]
