"""The stop flag: what each signal asks for, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.signals import USR1_DRAIN_SECONDS, Stop, StopFlag

ROOT = Path(__file__).resolve().parents[1]


def outcome(body: str) -> subprocess.CompletedProcess[str]:
    script = "import os, signal, time\nfrom runner import signals\n" + body
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_level_only_rises() -> None:
    flag = StopFlag()
    assert not flag.requested
    for level, expected in ((Stop.BRIEF, Stop.BRIEF), (Stop.DRAIN, Stop.BRIEF), (Stop.NOW, Stop.NOW)):
        flag.request(level)
        assert flag.level is expected
    assert flag.requested


@pytest.mark.parametrize(
    ("level", "seconds"), [(Stop.DRAIN, float("inf")), (Stop.BRIEF, USR1_DRAIN_SECONDS), (Stop.NOW, 0.0)]
)
def test_how_long_rows_in_flight_may_still_take(level: Stop, seconds: float) -> None:
    flag = StopFlag()
    flag.request(level)
    assert flag.drain_seconds == seconds


@pytest.mark.parametrize(("name", "level"), [("SIGINT", "DRAIN"), ("SIGUSR1", "BRIEF"), ("SIGTERM", "NOW")])
def test_each_signal_asks_for_its_level_and_returns(name: str, level: str) -> None:
    done = outcome(
        "flag = signals.StopFlag().install()\n"
        f"os.kill(os.getpid(), signal.{name})\n"
        f"assert flag.level is signals.Stop.{level}\n"
    )
    assert done.returncode == 0, done.stderr


def test_repeated_term_and_usr1_are_harmless() -> None:
    done = outcome(
        "flag = signals.StopFlag().install()\n"
        "for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):\n"
        "    os.kill(os.getpid(), number)\n"
        "assert flag.level is signals.Stop.NOW\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_second_interrupt_raises() -> None:
    done = outcome(
        "signals.StopFlag().install()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(7)\n"
    )
    assert done.returncode == 7


def test_a_stop_that_is_not_seen_in_time_ends_the_call_it_waits_in() -> None:
    """A model that loads for minutes must not keep TERM waiting: the exit code is still 75."""
    done = outcome(
        "signals.OVERDUE_SECONDS = 0.3\n"
        "import runner.__main__ as entry\n"
        "def slow(arguments, stop):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "entry._run = slow\n"
        "raise SystemExit(entry.main([]))\n"
    )
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
