"""What --help and --cfg print; composes nothing, so a missing job cannot trip it."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from enum import Enum
from typing import Any

from omegaconf import MISSING, OmegaConf

from runner.cli.compose import presets
from runner.cli.keys import Key, known_keys
from runner.config import RunnerConfig

_HEAD = """\
Offline batch generation: prompts from JSONL, Parquet, Arrow, CSV or a saved dataset; completions to Arrow shards.

  python -m runner job=NAME [group=PRESET ...] [key=value ...]

Examples
  python -m runner job=synthetic_data
  python -m runner job=generate input.path=prompts.jsonl sampling.max_tokens=200
  python -m runner job=generate job.name=facts input.path=rows.parquet 'job.template="Say a fact about {{ topic }}."'
  python -m runner job=generate job.module=my_job.py input.path='rows-*.jsonl' model.path=Qwen/Qwen3-8B
  python -m runner job=synthetic_data engine=echo output.dir=/tmp/dry_run

The same command again continues a stopped run; a finished job is left as it is.

Flags
  --help             this text
  --version          the version
  --cfg              the composed settings as YAML; nothing runs
  --config-dir=DIR   a folder of your own presets beside the built-in ones: DIR/job/my_job.yaml
"""

_TAIL = """\
Exit codes
  0 done, 1 bug, 3 error budget exceeded, 64 settings or input refused, 65 damage found, 73 locked,
  74 I/O, 75 stopped (TERM, USR1, first INT): run again to continue, 130 second INT
"""


def usage() -> str:
    """Jobs, presets, every key with type, default, tier and help, exit codes."""
    groups = "\n".join(f"  {group:<10} {', '.join(options)}" for group, options in presets().items())
    keys = "\n".join(_line(key) for key in known_keys().values())
    return (
        f"{_HEAD}\nPresets (group=PRESET)\n{groups}\n\n"
        "Settings (* changes what is written, and a job that has begun refuses another value; the others are free)\n"
        f"{keys}\n\n{_TAIL}"
    )


def as_yaml(config: RunnerConfig) -> str:
    """The settings of a run as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(asdict(config))))


def _line(key: Key) -> str:
    mark = "*" if key.tier == "output" else " "
    head = f" {mark} {key.name}={_shown(key)}"
    text = textwrap.wrap(key.help, 60)
    gap = " " * 46
    first = f"{head:<45} {text[0]}" if len(head) < 46 else f"{head}\n{gap}{text[0]}"
    return "\n".join([first, *(gap + line for line in text[1:])])


def _shown(key: Key) -> str:
    """The default, or what must be given; an enum shows its choices, the default first."""
    if isinstance(key.type, type) and issubclass(key.type, Enum):
        others = (member.value for member in key.type if member is not key.default)
        return "|".join((key.default.value, *others))
    if key.default == MISSING:
        return "..."
    if isinstance(key.default, bool):
        return str(key.default).lower()
    return "null" if key.default is None else str(key.default) or '""'


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
