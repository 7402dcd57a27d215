"""The values that numbers among the settings may take, and the most that one request may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.config import EngineConfig, EngineKind, LoadFormat, ModelSettings

MAX_STOP_IDS = 16  # of a request, with the model's own end-of-sequence ids
MAX_SAMPLES = 10_000  # answers of a row; each takes a place in memory from the start
MAX_LOGPROBS = 20  # of the best tokens at each place
MAX_BAD_PHRASES = 256  # bad words of several tokens in a request, written with and without a space before them
MAX_PHRASE_TOKENS = 32  # of one bad word


@dataclass(frozen=True)
class Limits:
    """The values that a number may take; ``above`` excludes the lower end."""

    low: float
    high: float = float("inf")
    above: bool = False

    def holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return low if self.high == float("inf") else f"{low}, and at most {self.high:g}"


LIMITS = {
    "input": {
        "limit": Limits(1),
    },
    "engine": {
        "max_num_seqs": Limits(1),
        "max_num_batched_tokens": Limits(1),
        "max_model_len": Limits(1),
        "gpu_memory_utilization": Limits(0, 1, above=True),
        "cpu_kv_cache_gib": Limits(0, above=True),
        "block_size": Limits(1, 4096),
        "num_kv_blocks": Limits(1),
    },
    "launch": {
        "array": Limits(1),
        "max_running": Limits(1),
        "cpus": Limits(1),
    },
    "resume": {
        "max_idle_attempts": Limits(1),
    },
    "output": {
        "rows_per_shard": Limits(1),
        "sync_seconds": Limits(0, above=True),
        "lease_seconds": Limits(1),
        "max_error_rate": Limits(0, 1),
        "max_error_rate_after": Limits(0),
    },
    "cost": {
        "num_cards": Limits(1),
        "dollars_per_gpu_hour": Limits(0),
    },
    "guard": {
        "window": Limits(1),
        "max_truncated": Limits(0, 1),
        "max_empty": Limits(0, 1),
        "max_repeated": Limits(0, 1),
        "max_duplicate": Limits(0, 1),
        "max_unparsed": Limits(0, 1),
    },
    "metrics": {
        "port": Limits(0, 65535),
        "seconds": Limits(0),
    },
    "preview": {
        "rows": Limits(1),
    },
    "preflight": {
        "rows": Limits(1),
    },
    "profile": {
        "rows": Limits(1),
        "steps": Limits(1),
    },
}
"""Section, then setting. A value that is None is the default, and always allowed."""


def beyond_limits(section: str, values: Any) -> Iterator[str]:
    """What is wrong with the numbers of one section of the settings, a line each."""
    for name, allowed in LIMITS[section].items():
        value = getattr(values, name)
        if value is not None and not allowed.holds(value):
            yield f"{section}.{name}={value}: must be {allowed}"


def engine_conflicts(engine: EngineConfig) -> Iterator[str]:
    """Settings of an engine that do not go together, a line each."""
    if engine.max_num_batched_tokens is not None and engine.max_num_batched_tokens < engine.max_num_seqs:
        yield (
            f"engine.max_num_batched_tokens={engine.max_num_batched_tokens}: one step must hold a token of each of "
            f"engine.max_num_seqs={engine.max_num_seqs} sequences"
        )
    if engine.max_model_len is not None and engine.kind is EngineKind.transformers and engine.max_model_len < 2:
        yield f"engine.max_model_len={engine.max_model_len}: no room for a prompt and an answer"


def model_conflicts(model: ModelSettings) -> Iterator[str]:
    """Settings of a model that cannot work, a line each."""
    if not model.path.strip():
        yield "model.path: empty; give a hub id, a local folder or a .gguf file"
    if model.trust_remote_code and model.revision is None:
        yield "model.trust_remote_code=true: runs the repository's code, so pin it with model.revision=COMMIT"
    if model.adapter is not None and model.load_format is LoadFormat.dummy:
        yield f"model.adapter={model.adapter}: has no meaning over random weights (model.load_format=dummy)"
