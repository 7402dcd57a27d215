"""The limits of numbers hold for the command line and for the library, in the same words."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from runner.cli.compose import compose
from runner.config import Dtype, RunnerConfig
from runner.engine import Engine
from runner.engine.settings import settings_of_keywords
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trust_remote_code": True}, "model.trust_remote_code=true: runs the repository's code"),
        ({"load_format": "dummy", "adapter": "./lora"}, "model.adapter=./lora: has no meaning over random weights"),
    ],
)
def test_the_library_refuses_the_same_models(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as library:
        Engine("./nowhere", **settings)
    with pytest.raises(ConfigError) as command_line:
        compose([*GENERATE, "model.path=./nowhere", *(f"model.{name}={value}" for name, value in settings.items())])
    assert str(library.value) == str(command_line.value)
    assert str(library.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": "8"}, "Engine(max_num_seqs='8'): must be a whole number"),
        ({"max_num_seqs": 2.5}, "Engine(max_num_seqs=2.5): must be a whole number"),
        ({"max_num_seqs": True}, "Engine(max_num_seqs=True): must be a whole number"),
        ({"max_num_seqs": None}, "Engine(max_num_seqs=None): must be a whole number"),
        ({"async_batching": "no"}, "Engine(async_batching='no'): must be True or False"),
        ({"gpu_memory_utilization": "0.5"}, "Engine(gpu_memory_utilization='0.5'): must be a number"),
        ({"adapter": 3}, "Engine(adapter=3): must be a text"),
        ({"dtype": "int3"}, "Engine(dtype='int3'): choose one of auto, float32"),
        ({"seed": "one"}, "Engine(seed='one'): must be a whole number"),
        ({"model": None}, "Engine(model=None): must be a text"),
        ({"kind": "echo"}, "Engine(kind='echo'): no such setting; known are adapter"),
        ({"max_num_seq": 8}, "Engine(max_num_seq=8): no such setting; did you mean max_num_seqs?"),
    ],
)
def test_the_library_refuses_wrong_types(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as library:
        Engine(**{"model": "./nowhere"} | settings)
    assert str(library.value).startswith(message)


def test_the_library_takes_what_stands_for_a_type() -> None:
    model, engine = settings_of_keywords(
        Path("folder"), {"max_num_seqs": np.int64(8), "cpu_kv_cache_gib": 1, "max_model_len": None, "dtype": Dtype.auto}
    )
    assert (model.path, model.dtype) == ("folder", Dtype.auto)
    assert (engine.max_num_seqs, engine.cpu_kv_cache_gib, engine.max_model_len) == (8, 1.0, None)
    assert type(engine.max_num_seqs) is int


def test_every_limit_is_of_a_setting() -> None:
    config = RunnerConfig()
    for section, limits in LIMITS.items():
        assert limits.keys() <= {item.name for item in fields(getattr(config, section))}
