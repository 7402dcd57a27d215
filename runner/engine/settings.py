"""What an engine is built from. No torch: the parent process makes these values and pickles them."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.config import EngineConfig, ModelSettings
from runner.models import ModelFiles


@dataclass(frozen=True)
class EngineSettings:
    """Everything that the engine process needs to start."""

    files: ModelFiles
    model: ModelSettings
    engine: EngineConfig = field(default_factory=EngineConfig)
