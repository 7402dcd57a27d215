"""The commands beside the run, all alike: what --help says, how a refusal looks, which exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.cli.outcome import exit_code_of
from runner.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
OVER_A_FOLDER = ("verify", "repair", "status", "retry", "export", "report")
OVER_A_JOB = ("preview", "preflight", "profile")
ALL = (*OVER_A_FOLDER, *OVER_A_JOB)


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"runner.{name}", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def given(name: str, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--to", "jsonl") if name == "export" else arguments


@pytest.mark.parametrize("name", ALL)
def test_help_has_one_shape_and_is_also_what_no_argument_gives(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    paragraphs = done.stdout.rstrip().split("\n\n")
    assert paragraphs[0][0].isupper()
    assert paragraphs[0].endswith(".")
    assert paragraphs[1].startswith(f"  python -m runner.{name} {'DIR' if name in OVER_A_FOLDER else 'job=NAME'}")
    assert paragraphs[-1].startswith("Exit codes: 0 ")
    assert " 64 " in paragraphs[-1]
    assert max(map(len, done.stdout.splitlines())) <= 120
    bare = command(name)
    assert (bare.returncode, bare.stdout, bare.stderr) == (64, done.stdout, "")  # a script with an empty variable


@pytest.mark.parametrize("name", OVER_A_FOLDER)
def test_another_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    for folder in (tmp_path, tmp_path / "nowhere", file):
        done = command(name, *given(name, str(folder)))
        assert done.returncode == 64
        assert str(folder) in done.stdout + done.stderr
        assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ("verify", "repair", "status"))
def test_a_second_argument_is_refused(name: str, tmp_path: Path) -> None:
    done = command(name, str(tmp_path), "sampling.n=2")
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "sampling.n=2" in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("preview", ("job=nothing",), "job=nothing"),
        ("preflight", ("job=generate", "sampling.max_tokns=1"), "sampling.max_tokens"),
        ("profile", ("job=generate", "--verbose"), "--verbose"),
        *((name, (".", "--verbose"), "--verbose") for name in OVER_A_FOLDER),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(name: str, arguments: tuple[str, ...], part: str) -> None:
    done = command(name, *given(name, *arguments))
    assert (done.returncode, done.stdout) == (64, "")
    assert part in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a=b: c"), 64, "a=b: c\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (OSError(errno.ENOSPC, "full"), 74, "full: what was to be shown is cut off; run again where there is space\n"),
    ],
)
def test_an_end_from_outside_is_no_traceback(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise error

    written: list[str] = []
    stream = SimpleNamespace(write=written.append, close=lambda: None)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", sys.stdout)
    assert exit_code_of(fail) == code
    assert "".join(written) == line


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_a_full_disk_takes_no_more_is_said(unbuffered: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n')
    arguments = ("job=generate", f"input.path={tmp_path / 'rows.jsonl'}", f"output.dir={tmp_path / 'out'}")
    line = [sys.executable, "-m", "runner.preview", "engine=echo", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            line,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (74, 1)
