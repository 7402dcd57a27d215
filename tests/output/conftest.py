"""The tiny job as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_job import run_job, tiny_spec

from runner.output import OutputSpec, Summary


@pytest.fixture
def spec() -> OutputSpec:
    return tiny_spec()


@pytest.fixture
def generate() -> Callable[..., Summary]:
    return run_job
