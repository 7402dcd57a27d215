"""What is shown where."""

from __future__ import annotations

import io
import logging

import pytest

from runner.report import progress as module
from runner.report.progress import Progress
from runner.report.throughput import duration
from runner.types import EngineStats, RowError, RowResult, Stage


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    progress = Progress(total_rows=10, done_rows=4, max_tokens=99, stream=stream, max_num_seqs=256)
    progress.add_sample(5)
    progress.add_row(RowResult(0, errors=[RowError(0, Stage.PARSE, "no_tokens", "")]))
    progress.show(EngineStats(num_running=3, num_waiting=2, kv_blocks_used=1, kv_blocks_total=4))
    progress.close()
    return progress


def test_a_terminal_gets_a_view(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stream = Terminal()
    with caplog.at_level(logging.INFO):
        shown(stream, monkeypatch)
    for part in ("5/10 rows", "3 running (batch 1% full), 2 waiting", "KV 25%", "1 failed (no_tokens 1)", "bottleneck"):
        assert part in stream.getvalue()
    assert not caplog.records


def test_elsewhere_there_are_log_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO):
        progress = shown(stream, monkeypatch)
    assert stream.getvalue() == ""
    assert "5/10 rows" in caplog.text
    assert progress.completion_tokens == 5
