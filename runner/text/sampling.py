"""From settings to sampling parameters, with every value checked."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from runner.config import SamplingConfig
from runner.errors import ConfigError
from runner.limits import MAX_LOGPROBS, MAX_SAMPLES, MAX_STOP_IDS
from runner.types import SamplingParams

log = logging.getLogger(__name__)

_FROM_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NAMES = tuple(item.name for item in fields(SamplingParams))
_INT64 = 1 << 63
_INT64_MAX = _INT64 - 1
FEWEST_CYCLE_TOKENS = 3


def load_generation_config(folder: str | Path) -> dict[str, Any]:
    """The model's generation_config.json; empty where there is none."""
    path = Path(folder) / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model.path: {path} is not JSON ({error}); repair or remove it") from None
    if not isinstance(value, dict):
        raise ConfigError(f"model.path: {path} is not a JSON object; repair or remove it")
    return value


def eos_token_ids(generation_config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer; from generation_config only, since tokenizers may name the wrong one."""
    value = generation_config.get("eos_token_id")
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def resolve_sampling(config: SamplingConfig, generation_config: Mapping[str, Any]) -> SamplingParams:
    """The job's sampling: its settings, null ones from generation_config, else the documented default.

    What the model decided is logged. Raises ConfigError naming the key, the value and the fix.
    """
    given = {name: value for name in _NAMES if (value := getattr(config, name, None)) is not None}
    taken = {
        name: generation_config[name]
        for name in _FROM_MODEL
        if name not in given and generation_config.get(name) is not None
    }
    if taken:
        log.info("from generation_config.json: %s", ", ".join(f"{name}={value}" for name, value in taken.items()))
    return override_sampling(SamplingParams(), {**taken, **given})


def override_sampling(params: SamplingParams, values: Mapping[str, Any], prefix: str = "sampling.") -> SamplingParams:
    """``params`` with some values replaced, null ones left alone; each is checked, unknown ones are refused."""
    if not values:
        return params
    unknown = [name for name in values if name not in _NAMES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], _NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_NAMES)}"
        raise ConfigError(f"{prefix}{unknown[0]} is not a sampling option; {hint}")
    checked = {name: _CHECKS[name](f"{prefix}{name}", value) for name, value in values.items() if value is not None}
    if not checked:
        return params
    params = replace(params, **checked)
    _check_together(params, prefix)
    return params


def checked_sampling(params: SamplingParams, prefix: str) -> SamplingParams:
    """A caller's own ``params`` with every value checked; single strings and lists become tuples."""
    plain = SamplingParams()
    given = {name: value for name in _NAMES if (value := getattr(params, name)) != getattr(plain, name)}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    return override_sampling(plain, given, prefix)


def _check_together(params: SamplingParams, prefix: str) -> None:
    if params.min_tokens > params.max_tokens:
        raise ConfigError(f"{prefix}min_tokens={params.min_tokens} is over max_tokens={params.max_tokens}; lower it")
    if params.n > 1 and params.temperature == 0:
        raise ConfigError(
            f"{prefix}n={params.n} with temperature=0 gives equal answers; set temperature above 0 or n=1"
        )


Check = Callable[[str, Any], Any]


def _bad(key: str, value: Any, fix: str) -> ConfigError:
    return ConfigError(f"{key}={value!r}: must be {fix}")


def _integer(low: int, high: int = _INT64_MAX, fix: str = "") -> Check:
    def check(key: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # Arrow and JSON readers may widen whole numbers
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            is_huge = high == _INT64_MAX and isinstance(value, int) and value > high
            upper = f", and at most {high}" if is_huge else ""
            raise _bad(key, value, (fix or f"an integer of at least {low}") + upper)
        return value

    return check


def _number(accepts: Callable[[float], bool], fix: str) -> Check:
    """``accepts`` bounds both sides, so that NaN, infinities and integers too large for a float are refused."""

    def check(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not accepts(value):
            raise _bad(key, value, fix)
        return float(value)

    return check


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(key, value, "true or false")
    return value


def _strings(key: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str) and v for v in values):
        raise _bad(key, value, "a list of strings that are not empty")
    return tuple(values)


def _token_ids(key: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _bad(key, value, "a list of token ids")
    return tuple(_integer(0, fix="a list of token ids")(key, v) for v in value)


def _stop_ids(key: str, value: Any) -> tuple[int, ...]:
    ids = _token_ids(key, value)
    if len(set(ids)) > MAX_STOP_IDS:
        raise ConfigError(f"{key}: {len(set(ids))} ids; at most {MAX_STOP_IDS}, drop some")
    return ids


_BIAS_FIX = "a mapping of token ids to numbers from -100 to 100"
_BIAS_ID = _integer(0, fix=_BIAS_FIX)
_BIAS = _number(lambda x: -100 <= x <= 100, _BIAS_FIX)


def _logit_bias(key: str, value: Any) -> tuple[tuple[int, float], ...]:
    """A mapping of token id (a string in JSON) to bias; null biases, which Arrow fills in, do not count."""
    if not isinstance(value, Mapping):
        raise _bad(key, value, _BIAS_FIX)
    given = [(_token_id(key, token), _BIAS(key, bias)) for token, bias in value.items() if bias is not None]
    if len(dict(given)) < len(given):
        raise _bad(key, value, "a mapping that names each token id once")
    return tuple(given)


def _token_id(key: str, token: Any) -> int:
    is_text = isinstance(token, str) and token.isascii() and token.isdigit()
    return _BIAS_ID(key, int(token) if is_text and len(token) < len(str(_INT64)) else token)


def _repetition_stop(key: str, value: Any) -> int:
    """A cycle must be seen three times, so one that covers fewer tokens is none."""
    cover = _integer(0)(key, value)
    if 0 < cover < FEWEST_CYCLE_TOKENS:
        raise _bad(key, value, f"0 (off) or at least {FEWEST_CYCLE_TOKENS}")
    return cover


# The engine scales logits by these two in float32: within the range none becomes infinite.
_LARGEST_SCALE = 1_000_000
_PENALTY = _number(lambda x: -2 <= x <= 2, "a number from -2 to 2")
_CHECKS: dict[str, Check] = {
    "max_tokens": _integer(1),
    "min_tokens": _integer(0),
    "temperature": _number(
        lambda x: 0 <= x <= _LARGEST_SCALE, f"0 (greedy) or a positive number, and at most {_LARGEST_SCALE}"
    ),
    "top_p": _number(lambda x: 0 < x <= 1, "over 0 and at most 1 (off)"),
    "top_k": _integer(-1, fix="a positive integer, or 0 or -1 (off)"),
    "min_p": _number(lambda x: 0 <= x <= 1, "from 0 (off) to 1"),
    "n": _integer(1, MAX_SAMPLES, f"an integer from 1 to {MAX_SAMPLES}"),
    "seed": _integer(-_INT64, fix="a 64-bit integer"),
    "stop": _strings,
    "stop_token_ids": _stop_ids,
    "ignore_eos": _flag,
    "repetition_penalty": _number(
        lambda x: 1 / _LARGEST_SCALE <= x <= _LARGEST_SCALE,
        f"a positive number from {1 / _LARGEST_SCALE:f} to {_LARGEST_SCALE}; 1 is off",
    ),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": _logit_bias,
    "bad_words": _strings,
    "logprobs": _integer(0, MAX_LOGPROBS, f"from 0 (the sampled token alone) to {MAX_LOGPROBS}"),
    "repetition_stop": _repetition_stop,
    "skip_special_tokens": _flag,
    "include_stop_str_in_output": _flag,
}
