"""Which attempt works on which range, where ranges are not divided beforehand. No server: links in one folder.

A lease is a link to the file of its holder, named by range and epoch; of two that want the same epoch, link()
lets one have it. A holder whose lock is free is dead; one whose file has not changed for ``seconds``, on the
watcher's own clock, has expired: the next epoch may be taken. A lease only keeps two attempts from doing the same
work. What fences a holder that wakes up late is the commit, which comes to be only once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

from runner.errors import StorageError
from runner.output.folder import Folder
from runner.output.layout import holder_number, lease_key
from runner.output.lock import FolderLock, is_locked

_log = logging.getLogger(__name__)
_LOCK_SECONDS = 3.0
_BEATS = 6  # signs of life within the time that a lease may go without one


class Leases:
    """The leases of one attempt, and its view of the others'."""

    def __init__(
        self, folder: Folder, attempt: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._disk, self._layout = folder.disk, folder.layout
        self._attempt = attempt
        self._seconds = seconds
        self._clock = clock
        self._epochs: dict[int, int] = {}  # the newest of each range that was ever leased
        self._holders: dict[str, int] = {}  # attempt by the name of a lease, which never changes
        self._dead: set[int] = set()
        self._signs: dict[int, tuple[int | None, float]] = {}  # sign of life by attempt, and since when it is that
        # Lock before file: whoever sees the file may judge by the lock.
        self._lock = FolderLock(self._layout.attempt_lock(attempt), wait_seconds=_LOCK_SECONDS)
        self._holder = self._layout.holder(attempt)
        self._disk.claim(self._holder, json.dumps({"attempt": attempt}).encode())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-beat", daemon=True)
        self._thread.start()

    def look(self) -> set[int]:
        """The ranges that others hold now; remembers what `claim` and `history` need."""
        names = {name: key for name in self._disk.names(self._layout.leases) if (key := lease_key(name))}
        self._epochs = {}
        for index, epoch in names.values():
            self._epochs[index] = max(epoch, self._epochs.get(index, 0))
        alive = {
            attempt: self._is_alive(attempt) for attempt in {self._holder_of(*key) for key in self._epochs.items()}
        }
        return {key[0] for key in self._epochs.items() if alive[self._holder_of(*key)]}

    def num_live(self) -> int:
        """Attempts at work on the folder, this one included."""
        numbers = filter(None, map(holder_number, self._disk.names(self._layout.leases)))
        return max(1, sum(self._is_alive(number) for number in numbers))

    def claim(self, index: int) -> bool:
        """Takes a range that `look` saw free; False when another was first, or the job is done meanwhile."""
        epoch = self._epochs.get(index, 0) + 1
        try:
            won = self._disk.link(self._holder, self._layout.lease(index, epoch))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        if won:
            self._epochs[index] = epoch
        return won

    def history(self, index: int) -> set[int]:
        """The attempts that held a range before; their journals may have rows of it."""
        found = {self._holder_of(index, epoch) for epoch in range(1, self._epochs.get(index, 0))}
        return found - {self._attempt}

    def close(self) -> None:
        """Gives everything up at once: a free lock says that its attempt has ended. Safe to call again."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._lock.release()

    def _holder_of(self, index: int, epoch: int) -> int:
        """0 for a lease that is gone or unreadable: nobody's."""
        path = self._layout.lease(index, epoch)
        if path.name not in self._holders:
            data = self._disk.read_if_there(path)
            try:
                self._holders[path.name] = int(json.loads(data or b"{}").get("attempt", 0))
            except ValueError:
                return 0
        return self._holders[path.name]

    def _is_alive(self, attempt: int) -> bool:
        if attempt == self._attempt:
            return True
        if attempt in self._dead or not is_locked(self._layout.attempt_lock(attempt)):
            self._dead.add(attempt)  # numbers are never given twice
            return False
        sign, now = self._disk.changed_ns(self._layout.holder(attempt)), self._clock()
        if attempt not in self._signs or self._signs[attempt][0] != sign:
            self._signs[attempt] = (sign, now)
        return now - self._signs[attempt][1] < self._seconds

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / _BEATS):
            try:
                self._disk.touch(self._holder)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):  # the job is done, and leases are no more
                    return
                _log.warning("no further signs of life, others may take this attempt's ranges: %s", error)
                return
