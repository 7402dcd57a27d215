"""What docs/input.md says is true: the codes of bad rows and the names of formats, drivers and settings."""

from __future__ import annotations

import re
from pathlib import Path

from runner.cli.keys import known_keys
from runner.input import storage
from runner.input.formats import FORMATS

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "input.md").read_text("utf-8")
SOURCE = "".join(path.read_text("utf-8") for path in sorted((ROOT / "runner" / "input").rglob("*.py")))
SOURCE += "".join((ROOT / "jobs" / name).read_text("utf-8") for name in ("generate.py", "loader.py"))
_CODE = r'(?:(?:Prompt|Line|Template)Error\(|read_error\([^"]*?|code, message = |code=|Stage\.\w+, )"([a-z0-9_]+)"'


def test_every_code_of_a_bad_row_is_listed_and_exists() -> None:
    listed = {
        code for row in re.findall(r"^\| (`[^|]*) \|", DOCS, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    raised = set(re.findall(_CODE, SOURCE)) - {"parse_type", "parse_column"}  # those are of answers
    assert len(raised) > 20
    assert listed == {code for code in raised if not code.startswith("template_")}
    assert "begin with `template`" in DOCS


def test_formats_and_settings_exist() -> None:
    suffixes = {suffix for reader in FORMATS.values() for suffix in reader.suffixes}
    assert suffixes <= set(re.findall(r"`(\.\w+)`", DOCS))
    for name in re.findall(r"`((?:input|job|output)\.[a-z_]+)", DOCS):
        assert name in known_keys()
    for scheme, package in re.findall(r"`(\w+)` for `(\w+)://`", DOCS):
        assert storage._DRIVERS[package] == scheme
