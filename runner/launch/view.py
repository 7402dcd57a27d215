"""One progress view over all processes of a job, read from the folder that they share."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from runner.errors import ConfigError
from runner.output import Survey, Surveyor
from runner.report.progress import LOG_SECONDS, WINDOW_SECONDS, duration

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


class View:
    """A bar on a terminal, a log line every half minute elsewhere; `show` is cheap to call often."""

    def __init__(self, folder: Path, stream: TextIO | None = None) -> None:
        self._folder = folder
        self._stream = sys.stderr if stream is None else stream
        self._surveyor: Surveyor | None = None
        self._bar: tqdm | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._next_look = 0.0
        self._next_line = time.monotonic() + LOG_SECONDS

    def show(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        survey = self._look()
        self._next_look = time.monotonic() + _LOOK_SECONDS
        if survey is None:
            return
        self._seen.append((now, survey.rows))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        self._paint(survey, now)

    def close(self) -> None:
        survey = self._look()
        if survey is not None:
            self._next_line = 0.0
            self._seen.append((time.monotonic(), survey.rows))  # all processes may have ended before the first look
            self._paint(survey, time.monotonic())
        if self._bar is not None:
            self._bar.close()

    def _look(self) -> Survey | None:
        """None while no process has made the folder's job."""
        if self._surveyor is None:
            try:
                self._surveyor = Surveyor(self._folder)
            except ConfigError:
                return None
        return self._surveyor.look()

    def _paint(self, survey: Survey, now: float) -> None:
        text = self._text(survey)
        if self._stream.isatty():
            if self._bar is None:
                layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} rows, {elapsed}{postfix}"
                self._bar = tqdm(total=survey.num_rows, file=self._stream, dynamic_ncols=True, bar_format=layout)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = survey.rows
            self._bar.refresh()
        elif now >= self._next_line:
            self._next_line = now + LOG_SECONDS
            logger.info("%d/%d rows, %s", survey.rows, survey.num_rows, text)

    def _text(self, survey: Survey) -> str:
        parts = [f"{sum(attempt.is_running for attempt in survey.attempts)} processes"]
        (then, before), (now, rows) = self._seen[0], self._seen[-1]
        if now > then and before < rows < survey.num_rows:
            rate = (rows - before) / (now - then)
            parts += [f"{rate:,.1f} rows/s", f"ETA {duration((survey.num_rows - rows) / rate)}"]
        if survey.totals.failed_rows:
            parts.append(f"{survey.totals.failed_rows} failed")
        return ", ".join(parts)
