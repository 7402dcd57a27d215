"""The tiny job of tests/output, driven in real processes that can be killed at any call."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
for _path in (_HERE, _HERE.parent / "output", _HERE.parents[1]):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))
# The fork server imports the driver once; its children then start in milliseconds.
os.environ["PYTHONPATH"] = os.pathsep.join([str(_HERE), str(_HERE.parent / "output"), str(_HERE.parents[1])])

from fault_checker import contents  # noqa: E402
from tiny_job import run_job, tiny_spec  # noqa: E402


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a folder: thousands of syncs cost nothing there, and a kill is a kill."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="faults-", dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> dict[str, bytes]:
    """The parts of an uninterrupted run."""
    path = tmp_path_factory.mktemp("reference") / "out"
    run_job(path, tiny_spec())
    return contents(path)
