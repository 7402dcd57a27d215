"""The engine: ids in, ids out. Importing this room does not import torch; its process does."""

from runner.engine.api import Engine, RequestOutput, SampleOutput
from runner.engine.process import EngineProcess
from runner.engine.settings import EngineSettings
from runner.types import SamplingParams

__all__ = ["Engine", "EngineProcess", "EngineSettings", "RequestOutput", "SampleOutput", "SamplingParams"]
