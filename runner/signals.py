"""How a run is stopped from outside: one flag, set by signals, polled by the loop.

Installed before anything heavy is imported: a signal without a handler would kill the process during an import.
"""

from __future__ import annotations

import signal
from enum import IntEnum
from types import FrameType

USR1_DRAIN_SECONDS = 10.0
OVERDUE_SECONDS = 16.0  # TERM and USR1 promise an exit within 20
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})


class Stop(IntEnum):
    """What was asked; a higher one overrules a lower one."""

    NONE = 0
    DRAIN = 1  # first INT: admit nothing more, finish what is in flight
    BRIEF = 2  # USR1: finish what fits into USR1_DRAIN_SECONDS
    NOW = 3  # TERM: flush and go


class Overdue(BaseException):
    """Raised in the main thread when a stop was asked and the run still sits in a long call, such as a model load."""


class StopFlag:
    """The one object that signals write and the run reads. ``level`` only ever rises."""

    def __init__(self) -> None:
        self.level = Stop.NONE
        self._interrupts = 0

    def install(self) -> StopFlag:
        """Takes over INT, TERM, USR1 and ALRM of this process; call it from the main thread.

        A launcher starts its processes with them blocked: what came meanwhile arrives now.
        """
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGTERM, self._on_deadline)
        signal.signal(signal.SIGUSR1, self._on_deadline)
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    @property
    def requested(self) -> bool:
        return self.level is not Stop.NONE

    @property
    def drain_seconds(self) -> float:
        """How long rows in flight may still finish once the stop is seen, in seconds."""
        return {Stop.BRIEF: USR1_DRAIN_SECONDS, Stop.NOW: 0.0}.get(self.level, float("inf"))

    def request(self, level: Stop) -> None:
        self.level = max(self.level, level)

    def disarm(self) -> None:
        """No `Overdue` for the stop that was asked: whoever calls this is not in a long call."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.request(Stop.DRAIN)

    def _on_deadline(self, signum: int, frame: FrameType | None) -> None:
        if self.level < Stop.BRIEF:
            signal.setitimer(signal.ITIMER_REAL, OVERDUE_SECONDS)
        self.request(Stop.NOW if signum == signal.SIGTERM else Stop.BRIEF)

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        raise Overdue
