"""One log format, to stderr, through the standard logging module."""

from __future__ import annotations

import logging
import sys

from runner.report.plain import plain


class _PlainFormatter(logging.Formatter):
    """What a record quotes of rows, answers or names is shown, not sent to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


class _PresentStderr(logging.StreamHandler):
    """Writes to what sys.stderr is now: the terminal view stands in for it, to put log lines above its own."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Sends the runner's log records to stderr as `12:30:59 INFO runner.run: message`."""
    handler = _PresentStderr()
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    for name in ("runner", "jobs"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
