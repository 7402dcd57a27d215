"""Which model: a name, a path or a hub id becomes one local folder with a known identity. No torch in this process."""

from runner.models.resolve import ModelFiles, resolve_model

__all__ = ["ModelFiles", "resolve_model"]
