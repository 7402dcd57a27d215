"""The limits of numbers hold for the command line and for the library, in the same words."""

from __future__ import annotations

from dataclasses import fields

import pytest

from runner.cli.compose import compose
from runner.config import RunnerConfig
from runner.engine import Engine
from runner.errors import ConfigError
from runner.limits import LIMITS

GENERATE = ("job=generate", "input.path=rows.jsonl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": 0}, "engine.max_num_seqs=0: must be 1 or more"),
        ({"gpu_memory_utilization": 0.0}, "engine.gpu_memory_utilization=0.0: must be more than 0, and at most 1"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "engine.max_num_batched_tokens=8: one step must hold"),
        ({"max_model_len": 1}, "engine.max_model_len=1: no room for a prompt and an answer"),
    ],
)
def test_the_library_refuses_what_the_command_line_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as library:
        Engine("./nowhere", **settings)
    with pytest.raises(ConfigError) as command_line:
        compose([*GENERATE, *(f"engine.{name}={value}" for name, value in settings.items())])
    assert str(library.value) == str(command_line.value)
    assert str(library.value).startswith(message)


def test_every_limit_is_of_a_setting() -> None:
    config = RunnerConfig()
    for section, limits in LIMITS.items():
        assert limits.keys() <= {item.name for item in fields(getattr(config, section))}
