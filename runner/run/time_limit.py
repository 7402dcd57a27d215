"""The time limit of this process, and which rows can still be done before it."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.run.inflight import RowWork

logger = logging.getLogger(__name__)

MARGIN_SECONDS = 240.0  # left unused: the script's USR1 comes 180 s before the limit, Slurm may send it a minute early
_SLURM_END = "SLURM_JOB_END_TIME"  # in seconds since 1970; of each start of a requeued task its own
_SEEN_ROWS = 512  # rows that the expectation is taken over: the latest, as rates change
_SHARE = 0.9  # of them had come back in the time that a further row is given


def seconds_to_end(end_time: float | None) -> float:
    """Seconds until this process must be gone: by ``end_time`` (seconds since 1970) or Slurm; inf without a limit."""
    ends = [float(os.environ[_SLURM_END])] if os.environ.get(_SLURM_END, "").isdigit() else []
    return min([*ends, *([] if end_time is None else [end_time])], default=float("inf")) - time.time()


@dataclass(slots=True)
class _Begun:
    at: float
    longest: int = 0  # tokens of its longest sample so far


class TimeLimit:
    """Holds back rows that would come back too late, judged by the rows that came back so far.

    A row is given the time, waiting in the engine included, within which 90 % of the rows seen came back; less where
    its own max_tokens is lower than what these had. While nothing has come back, every row is let through.
    """

    def __init__(self, seconds: float = float("inf"), clock: Callable[[], float] = time.monotonic) -> None:
        """``seconds`` from now to the limit, of which the margin, or half of a shorter time, is left unused."""
        self._clock = clock
        self._end = clock() + seconds - min(MARGIN_SECONDS, seconds / 2) if seconds < float("inf") else seconds
        self._begun: dict[int, _Begun] = {}
        self._seen: deque[tuple[float, int]] = deque(maxlen=_SEEN_ROWS)  # seconds, tokens of the longest sample
        self.is_closed = False
        """A row was held back: no further one is to be taken up."""

    @property
    def has_passed(self) -> bool:
        return self._clock() >= self._end

    def admit(self, works: Sequence[RowWork]) -> list[RowWork]:
        """Those of the rows that can still be done; their time runs from now."""
        now = self._clock()
        fitting = self._fitting(works, self._end - now)
        self._begun |= {work.row.row_id: _Begun(now) for work in fitting}
        return fitting

    def add(self, work: RowWork, num_tokens: int) -> None:
        """A sample of a row came back, with so many tokens."""
        begun = self._begun[work.row.row_id]
        begun.longest = max(begun.longest, num_tokens)
        if not work.pending:
            del self._begun[work.row.row_id]
            self._seen.append((self._clock() - begun.at, begun.longest))

    def _fitting(self, works: Sequence[RowWork], seconds_left: float) -> list[RowWork]:
        if seconds_left == float("inf") or not self._seen:
            return list(works)
        times, lengths = (sorted(values) for values in zip(*self._seen, strict=True))
        place = int(_SHARE * (len(times) - 1))
        seconds, length = times[place], max(lengths[place], 1)
        fitting = [work for work in works if seconds * _tokens(work, length) / length <= seconds_left]
        if len(fitting) < len(works) and not self.is_closed:
            self.is_closed = True
            logger.info(
                "a row takes up to %.0f s and the time limit leaves %.0f s: no further rows are begun",
                seconds,
                max(seconds_left, 0.0),
            )
        return fitting


def _tokens(work: RowWork, usual: int) -> int:
    """How many tokens the longest answer of a row is expected to have."""
    limits = [
        request.sampling.max_tokens if request.sampling.ignore_eos else min(request.sampling.max_tokens, usual)
        for request in work.requests
    ]
    return max(limits)
