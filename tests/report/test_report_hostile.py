"""Whatever rows and answers hold is shown as text: on a terminal, in the log, by status and by preview."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile import HOSTILE, sent, sent_beside_the_view

from runner.cli.entry import main
from runner.errors import ConfigError
from runner.output import Surveyor
from runner.preflight import preflight
from runner.preview import preview
from runner.report.log import log_to_stderr
from runner.status import describe

ROOT = Path(__file__).resolve().parents[2]
JOB = """
from runner.types import Refused
def prompt(row):
    return row["prompt"]
def parse(row, completion):
    raise Refused(completion.text, code=row["prompt"])
"""

REFUSING_JOB = """
from runner.types import Refused
def prompt(row):
    raise Refused(row["prompt"], code=row["prompt"])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hostile rows, and a job that refuses each with its text as the code."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in HOSTILE))
    (folder / "job.py").write_text(JOB)
    (folder / "refusing.py").write_text(REFUSING_JOB)
    return folder


def arguments(place: Path) -> list[str]:
    found = ["job=generate", "engine=echo", f"input.path={place}/rows.jsonl", f"output.dir={place}/out"]
    return [*found, "output.max_error_rate=1", "metrics.seconds=0.1"]


def on_a_terminal(command: list[str], folder: Path) -> str:
    """Everything that a command sends to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            piece = b""
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    process.wait(60)
    return b"".join(pieces).decode()


@pytest.fixture(scope="module")
def terminal(place: Path) -> str:
    """A run as a terminal gets it; every row ends in errors, and so does the run."""
    command = [sys.executable, "-m", "runner", *arguments(place), "job.module=job.py", "launch.task='\x1b[2Jtask'"]
    return on_a_terminal(command, place)


def test_a_terminal_gets_what_the_view_sends_and_nothing_else(terminal: str) -> None:
    assert f"{len(HOSTILE)}/{len(HOSTILE)} rows" in terminal
    assert "failed (\\x1b[2J\\x1b]0;taken\\x07 1" in terminal
    assert sent_beside_the_view(terminal) == []


def test_status_shows_names_as_text(terminal: str, place: Path) -> None:
    shown = "\n".join(describe(Surveyor(str(place / "out")).look(), now=0.0))
    assert "\\x1b[2Jtask" in shown
    assert sent(shown) == []


def test_preview_shows_prompts_as_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(place), f"preview.rows={len(HOSTILE)}"], "", preview) == 0
    out = capsys.readouterr().out
    assert "onload=document.title" in out
    assert "\\x1b[2J" in out
    assert sent(out) == []
    assert len(out) < 100_000


@pytest.mark.parametrize(
    ("command", "said"),
    [(preview, "would go to errors/ with \\x1b[2J"), (preflight, "\\x1b[2J\\x1b]0;taken")],
)
def test_what_a_job_refuses_is_shown_as_text(
    place: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., Iterator[str]], said: str
) -> None:
    refusing = [*arguments(place), f"job.module={place}/refusing.py", f"preview.rows={len(HOSTILE)}"]
    assert main(refusing, "", command) == 0
    out = capsys.readouterr().out
    assert said in out
    assert sent(out) == []
    assert len(out) < 100_000


def test_a_log_line_shows_what_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = {name: logging.getLogger(name).handlers for name in ("runner", "jobs")}
    try:
        log_to_stderr()
        for text in HOSTILE[:-1]:
            logging.getLogger("runner.test").warning("codes: %s", text)
    finally:
        for name, old in handlers.items():
            logging.getLogger(name).handlers = old
            logging.getLogger(name).propagate = True
    err = capsys.readouterr().err
    assert "\\x1b]0;taken\\x07" in err
    assert sent(err) == []


def test_an_error_shows_what_it_quotes() -> None:
    shown = [str(ConfigError(f"input.columns={text}: no such column")) for text in HOSTILE]
    assert "\\x1b[2J" in shown[0]
    assert sent("".join(shown)) == []
