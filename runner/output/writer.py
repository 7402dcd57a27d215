"""The thread between the caller and the disk: the caller never waits for a sync."""

from __future__ import annotations

import threading
import time

from runner.output.commits import Totals
from runner.output.ledger import Ledger
from runner.output.ranges import OpenRange
from runner.types import RowResult

_BATCH_ROWS = 512
_BATCH_SECONDS = 1.0
_MAX_WAITING_ROWS = 8192
_SYNC_BYTES = 1 << 20


class Writer:
    """Feeds a `Ledger` on a thread of its own. After an error it does nothing more; every call raises it."""

    def __init__(self, ledger: Ledger, sync_seconds: float) -> None:
        self._ledger = ledger
        self._sync_seconds = sync_seconds
        self._batch_seconds = min(_BATCH_SECONDS, sync_seconds / 2)
        self._changed = threading.Condition()
        self._adopted: list[OpenRange] = []
        self._waiting: list[RowResult] = []
        self._waiting_since = 0.0  # when the oldest of them came, on the monotonic clock
        self._unsynced_since: float | None = None  # when the oldest journalled and unsynced one came
        self._flush_wanted = False
        self._stopping = False
        self._error: BaseException | None = None
        self._totals = Totals()
        self._totals.add(ledger.totals)
        self._thread = threading.Thread(target=self._run, name="output-writer", daemon=True)
        self._thread.start()

    @property
    def totals(self) -> Totals:
        """The sums over committed and journalled rows."""
        with self._changed:
            copy = Totals()
            copy.add(self._totals)
            return copy

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def check(self) -> None:
        """Raises the error that stopped the thread, if one did."""
        if self._error is not None:
            raise self._error

    def adopt(self, item: OpenRange) -> None:
        """Hands over a range before the first of its results."""
        with self._changed:
            self.check()
            self._adopted.append(item)
            self._changed.notify_all()

    def put(self, result: RowResult) -> None:
        """Hands a result over; waits only while the disk is thousands of rows behind."""
        with self._changed:
            self.check()
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting.append(result)
            if len(self._waiting) == 1 or len(self._waiting) >= _BATCH_ROWS:
                self._changed.notify_all()
            while len(self._waiting) > _MAX_WAITING_ROWS and self._error is None:
                self._changed.wait()

    def flush(self) -> None:
        """Returns when all that was put is durable."""
        with self._changed:
            self._flush_wanted = True
            self._changed.notify_all()
            while self._flush_wanted and self._error is None:
                self._changed.wait()
            self.check()

    def stop(self) -> None:
        """Ends the thread. What was put and not flushed may be lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 - kept for the caller, who gets it from its next call
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _turn(self) -> bool:
        """Takes what waits once it is due, and syncs once that is due; False when the thread is to end."""
        with self._changed:
            while (delay := self._delay()) is None or delay > 0:
                self._changed.wait(delay)
            if self._stopping:
                return False
            adopted, self._adopted = self._adopted, []
            results, self._waiting = self._waiting, []
            since, flush = self._waiting_since, self._flush_wanted
            self._changed.notify_all()
        for item in adopted:
            self._ledger.adopt(item)
        if results:
            self._ledger.absorb(results)
            if self._unsynced_since is None:
                self._unsynced_since = since
        if flush or self._ledger.unsynced >= _SYNC_BYTES or self._is_sync_due():
            self._ledger.sync()
            self._unsynced_since = None
        with self._changed:
            self._totals = Totals()
            self._totals.add(self._ledger.totals)
            if flush:
                self._flush_wanted = False
                self._changed.notify_all()
        return True

    def _delay(self) -> float | None:
        """Seconds until there is something to do; None while nothing is known to come."""
        if self._stopping or self._flush_wanted or self._adopted or len(self._waiting) >= _BATCH_ROWS:
            return 0.0
        due = []
        if self._waiting:
            due.append(self._waiting_since + self._batch_seconds)
        if self._unsynced_since is not None:
            due.append(self._unsynced_since + self._sync_seconds)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _is_sync_due(self) -> bool:
        return self._unsynced_since is not None and time.monotonic() >= self._unsynced_since + self._sync_seconds
