"""Sampling settings: where values come from, and which are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from runner.config import SamplingConfig
from runner.errors import ConfigError
from runner.text import eos_token_ids, load_generation_config, override_sampling, resolve_sampling
from runner.types import SamplingParams


def test_null_takes_the_models_value_then_the_default(caplog: pytest.LogCaptureFixture) -> None:
    model = {"temperature": 0.6, "top_k": 20, "max_new_tokens": 7, "eos_token_id": 2}
    with caplog.at_level(logging.INFO):
        params = resolve_sampling(SamplingConfig(top_k=5), model)
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.6, 5, 1.0, 1024)
    assert "temperature=0.6" in caplog.text and "top_k" not in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, "sampling.temperature=-0.1: must be 0 (greedy) or a positive number"),
        ("temperature", float("nan"), "sampling.temperature=nan"),
        ("temperature", True, "sampling.temperature=True"),
        ("temperature", 1e308, "and at most 1000000"),
        ("temperature", 10**400, "and at most 1000000"),
        ("top_p", 0, "over 0 and at most 1"),
        ("top_p", 1.5, "over 0 and at most 1"),
        ("top_k", -2, "0 or -1 (off)"),
        ("min_p", 2, "from 0 (off) to 1"),
        ("max_tokens", 0, "an integer of at least 1"),
        ("max_tokens", 1 << 63, "an integer of at least 1, and at most 9223372036854775807"),
        ("top_k", 1 << 63, "and at most 9223372036854775807"),
        ("max_tokens", 1.5, "an integer of at least 1"),
        ("n", 0, "an integer from 1 to 10000"),
        ("n", 10_001, "an integer from 1 to 10000"),
        ("seed", 1 << 63, "a 64-bit integer"),
        ("stop", ["a", ""], "strings that are not empty"),
        ("stop_token_ids", [-1], "token ids"),
        ("stop_token_ids", "12", "token ids"),
        ("stop_token_ids", list(range(17)), "17 ids; at most 16"),
        ("ignore_eos", 1, "true or false"),
        ("repetition_penalty", 0, "a positive number"),
        ("repetition_penalty", 1e39, "from 0.000001 to 1000000"),
        ("repetition_penalty", 1e-46, "from 0.000001 to 1000000"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("logit_bias", {"x": 1}, "a mapping of token ids"),
        ("logit_bias", {"5": 101}, "a mapping of token ids"),
        ("logit_bias", {-5: 1}, "a mapping of token ids"),
        ("logit_bias", {5.5: 1}, "a mapping of token ids"),
        ("logit_bias", {True: 1}, "a mapping of token ids"),
        ("logit_bias", {"9" * 40: 1}, "a mapping of token ids"),
        ("logit_bias", {"5": 1, 5: 2}, "each token id once"),
        ("logit_bias", [[5, 1]], "a mapping of token ids"),
        ("bad_words", [""], "strings that are not empty"),
        ("logprobs", 21, "from 0 (the sampled token alone) to 20"),
        ("logprobs", -1, "from 0 (the sampled token alone) to 20"),
        ("logprobs", True, "from 0 (the sampled token alone) to 20"),
        ("repetition_stop", 2, "0 (off) or at least 3"),
        ("repetition_stop", -1, "an integer of at least 0"),
        ("temprature", 1, "did you mean temperature?"),
        ("min_tokens", 2000, "sampling.min_tokens=2000 is over max_tokens=1024"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        override_sampling(SamplingParams(), {name: value})
    assert message in str(error.value)
    assert f"sampling.{name}" in str(error.value)


def test_no_overrides_give_the_very_same_parameters() -> None:
    base = SamplingParams(n=2, temperature=0)  # as it is: what the job itself asked for was checked before
    assert override_sampling(base, {}) is base
    assert override_sampling(base, {"seed": None}) is base


def test_settings_of_the_job_reach_the_parameters() -> None:
    config = SamplingConfig(logit_bias={5: -1, "7": None}, bad_words=["a\n"], repetition_stop=9)
    params = resolve_sampling(config, {})
    assert (params.logit_bias, params.bad_words, params.repetition_stop) == (((5, -1.0),), ("a\n",), 9)


def test_several_greedy_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="equal answers"):
        override_sampling(SamplingParams(), {"n": 2, "temperature": 0})


def test_overrides_leave_nulls_alone_and_take_what_files_widen() -> None:
    base = SamplingParams(temperature=0.5, max_tokens=10)
    params = override_sampling(base, {"temperature": None, "max_tokens": 20.0, "stop": "x", "logit_bias": {"5": 1}})
    assert params == SamplingParams(temperature=0.5, max_tokens=20, stop=("x",), logit_bias=((5, 1.0),))
    assert isinstance(params.max_tokens, int)


def test_end_ids_come_from_generation_config(tmp_path: Path) -> None:
    assert load_generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert eos_token_ids(load_generation_config(tmp_path)) == (1, 2)
    assert eos_token_ids({"eos_token_id": 3}) == (3,)
    assert eos_token_ids({}) == ()


def test_a_broken_generation_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        load_generation_config(tmp_path)
