"""The only wiring: read, render, generate, write; stop; recover from an engine that died."""

from runner.run.run import run

__all__ = ["run"]
