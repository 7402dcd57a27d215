"""Watches an engine at work: who did what when, host and device, step by step."""

from runner.engine.profiling.measure import Recording, read_bandwidth, record
from runner.engine.profiling.recorder import COMPUTE, HOST, PROMPTS, Recorder, Span, Step, StepSpan
from runner.engine.profiling.watched import WatchedEngine, watched_engine

__all__ = [
    "COMPUTE",
    "HOST",
    "PROMPTS",
    "Recorder",
    "Recording",
    "Span",
    "Step",
    "StepSpan",
    "WatchedEngine",
    "read_bandwidth",
    "record",
    "watched_engine",
]
