"""Offline batch generation that never loses a row."""

__version__ = "0.1.0"
