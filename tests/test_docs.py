"""What the README and the map say is true: job, commands, settings, exit codes and rooms exist."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from jobs import load_job
from runner.cli.compose import compose
from runner.cli.keys import known_keys
from runner.config import JobConfig
from runner.errors import ExitCode
from runner.types import Completion, FinishReason, Job, SamplingParams

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    shlex.split(command.replace("\\\n", " "))[3:]
    for command in re.findall(r"^python -m runner (?:.*\\\n)*.*$", README, re.MULTILINE)
]
SETTINGS = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \|", README, re.MULTILINE))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    blocks = re.findall(r"```python\n(# my_job\.py\n.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "my_job.py"
    path.write_text(blocks[0])
    return load_job(JobConfig(name="reviews", module=str(path)))


@pytest.mark.parametrize(("text", "label"), [("Positive.\n", "positive"), ("negative", "negative"), ("Hm", None)])
def test_the_readmes_job_reads_answers(job: Job, text: str, label: str | None) -> None:
    completion = Completion(0, 0, 0, text, FinishReason.STOP, None, prompt_tokens=1, completion_tokens=1, seed=0)
    assert job.parse({}, completion) == {"label": label}


def test_the_readmes_job_asks_about_the_row(job: Job) -> None:
    assert job.prompt({"review": "A dull film"}).endswith("A dull film")


def test_there_are_commands_to_test() -> None:
    assert len(COMMANDS) >= 4
    assert len(SETTINGS) >= 15


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_composes(arguments: list[str]) -> None:
    assert compose(arguments).job.name


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_of_the_readme_exists_with_that_default(key: str) -> None:
    default, shown = known_keys()[key].default, SETTINGS[key].strip()
    if isinstance(default, bool):
        assert shown == str(default).lower()
    elif re.fullmatch(r"[\d.]+", shown):
        assert float(shown) == default


def test_the_table_of_sampling_has_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "sampling.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| `([a-z_]+)` \| ([^ |]+) \|", text, re.MULTILINE))
    empty = {"null": None, "true": True, "false": False, "[]": (), "{}": ()}
    defaults = {item.name: item.default for item in fields(SamplingParams)}
    assert {name: empty[value] if value in empty else float(value) for name, value in shown.items()} == defaults


def test_the_exit_codes_of_the_readme_are_all_there_are() -> None:
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert shown == set(ExitCode)


def test_every_room_has_its_line_in_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = {path.stem for path in (ROOT / "runner").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert (
        sorted(room for room in rooms - {"__init__"} if f"`{room}`" not in text and f"runner/{room}" not in text) == []
    )
