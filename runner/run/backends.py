"""What stands behind engine.kind: the engine's factory, and the tokenizer and the facts that go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from runner.config import EngineKind, RunnerConfig
from runner.echo import EchoEngine, EchoTokenizer
from runner.engine import EngineProcess, EngineSettings
from runner.models import resolve_model
from runner.text import PromptTokenizer, ReasoningMarks, TextTokenizer, reasoning_marks
from runner.types import EngineClient


@dataclass(frozen=True)
class Backend:
    """Knows the model without having loaded it; ``open_tokenizer`` and ``start_engine`` load.

    ``identity`` changes whenever the model's output can; ``max_model_len`` None means no limit. ``model_config`` is
    the language model's part of config.json, empty for the stand-in.
    """

    model_name: str
    identity: str
    generation_config: Mapping[str, Any]
    model_config: Mapping[str, Any]
    max_model_len: int | None
    open_tokenizer: Callable[[], PromptTokenizer]
    start_engine: Callable[[], EngineClient]
    reasoning: ReasoningMarks | None = None


def choose_backend(config: RunnerConfig) -> Backend:
    """Raises ConfigError when the model cannot be found or is not allowed to load."""
    return _BACKENDS[config.engine.kind](config)


def _transformers(config: RunnerConfig) -> Backend:
    files = resolve_model(config.model)
    settings = EngineSettings(files, config.model, config.engine)
    return Backend(
        model_name=config.model.path,
        identity=files.identity,
        generation_config=files.generation_config,
        model_config=files.text_config,
        max_model_len=config.engine.max_model_len or files.context_length,
        open_tokenizer=lambda: TextTokenizer(files.folder, trust_remote_code=config.model.trust_remote_code),
        start_engine=lambda: EngineProcess(settings),
        reasoning=reasoning_marks(files.folder) if config.job.chat else None,
    )


def _echo(config: RunnerConfig) -> Backend:
    return Backend(
        model_name="echo",
        identity="echo",
        generation_config={},
        model_config={},
        max_model_len=config.engine.max_model_len,
        open_tokenizer=EchoTokenizer,
        start_engine=EchoEngine,
    )


_BACKENDS: Mapping[EngineKind, Callable[[RunnerConfig], Backend]] = MappingProxyType(
    {EngineKind.transformers: _transformers, EngineKind.echo: _echo}
)
