"""Are the answers any good? Rates over the latest ones: warnings by default, an end where a limit is set."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from runner.config import GuardConfig
from runner.errors import BudgetError
from runner.types import Completion, FinishReason

logger = logging.getLogger(__name__)

WARN_ABOVE: Mapping[str, float] = MappingProxyType(
    {"truncated": 0.2, "empty": 0.05, "repeated": 0.1, "duplicate": 0.1, "unparsed": 0.3}
)
_ADVICE = MappingProxyType(
    {
        "truncated": "end at max_tokens; raise sampling.max_tokens or ask for less",
        "empty": "say nothing; look at the prompts with python -m runner.preview",
        "repeated": "end in a loop; raise sampling.temperature or set sampling.repetition_penalty",
        "duplicate": "equal an earlier answer; raise sampling.temperature or look for equal prompts",
        "unparsed": "gave the job nothing to read; look at its parse and at the prompts",
    }
)
_TAIL_CHARS = 600
_LEAST_TURNS = 4  # of a loop
_REMEMBERED_BITS = 22


class QualityGuard:
    """Takes every answer as it finishes, in about two microseconds; never more than 16 MiB remember them."""

    def __init__(self, config: GuardConfig | None = None) -> None:
        self._config = config or GuardConfig()
        self._latest: deque[int] = deque(maxlen=self._config.window)  # of each, a bit for each fault
        self._counts = dict.fromkeys(WARN_ABOVE, 0)
        self._totals = dict.fromkeys(WARN_ABOVE, 0)
        self._seen = memoryview(bytearray(4 << _REMEMBERED_BITS)).cast("I")
        self._warned: set[str] = set()
        self.answers = 0

    @property
    def rates(self) -> dict[str, float]:
        """Of the latest answers, by name; empty before there is one."""
        return {name: count / len(self._latest) for name, count in self._counts.items()} if self._latest else {}

    @property
    def totals(self) -> dict[str, int]:
        """Counts over all answers of this run."""
        return dict(self._totals)

    def add(self, completion: Completion, parsed: bool) -> None:
        """``parsed`` is false when the job could read nothing out of the answer."""
        text = completion.text.strip()
        reason = completion.finish_reason
        faults = (
            (reason is FinishReason.LENGTH)
            | (not text) << 1
            | (reason is FinishReason.REPETITION or ends_in_a_loop(text)) << 2
            | (bool(text) and self._was_seen(text)) << 3
            | (not parsed) << 4
        )
        latest = self._latest
        if len(latest) == latest.maxlen and latest[0]:
            self._count(self._counts, latest[0], -1)
        latest.append(faults)
        self.answers += 1
        if faults:
            self._count(self._counts, faults, 1)
            self._count(self._totals, faults, 1)

    def check(self) -> None:
        """Warns once about each bad rate; raises BudgetError over a limit that is set."""
        if len(self._latest) < self._config.window:
            return
        for name, rate in self.rates.items():
            limit = getattr(self._config, f"max_{name}")
            if limit is not None and rate > limit:
                raise BudgetError(
                    f"guard.max_{name}={limit:g}: {rate:.0%} of the latest {len(self._latest)} answers "
                    f"{_ADVICE[name]}, or raise the limit; run again to continue"
                )
            if limit is None and rate > WARN_ABOVE[name] and name not in self._warned:
                self._warned.add(name)
                logger.warning("%.0f %% of the latest %d answers %s", 100 * rate, len(self._latest), _ADVICE[name])

    def _was_seen(self, text: str) -> bool:
        """Whether an earlier answer was the same. One that came millions of answers ago may be forgotten."""
        key = hash(text)
        place, mark = key & (1 << _REMEMBERED_BITS) - 1, key >> _REMEMBERED_BITS & 0xFFFFFFFF
        seen = self._seen[place] == mark
        self._seen[place] = mark
        return seen

    def _count(self, counts: dict[str, int], faults: int, step: int) -> None:
        for bit, name in enumerate(WARN_ABOVE):
            counts[name] += step * (faults >> bit & 1)


def says_something(parsed: Mapping[str, Any] | None, columns: Collection[str]) -> bool:
    """False where the job refused the answer or read nothing into any of its columns; to drop one is a choice.

    0 and False are something. A job that fills a column in any case says in a column ``parsed`` whether it found one.
    """
    if parsed is None or not columns:
        return True
    sign = parsed.get("parsed")
    return sign if isinstance(sign, bool) else any(value is not None for value in parsed.values())


def ends_in_a_loop(text: str) -> bool:
    """Whether the end of the text is one piece of 5 to 150 characters over and over, or one word is.

    Looks for the last few characters further ahead: their distance is the length of the piece.
    """
    tail = text[-_TAIL_CHARS:]
    if len(tail) < 40:
        return False
    end = tail[-12:]
    at = tail.rfind(end, 0, -1)
    period = len(tail) - len(end) - at
    if at < 0 or period * _LEAST_TURNS > len(tail):
        return False
    covered = max(period * _LEAST_TURNS, 40)
    return len(tail) >= covered and tail[period - covered :] == tail[-covered:-period]
