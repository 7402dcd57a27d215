"""The user's cache of converted GGUF models: one folder for each file content and transformers release."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.errors import ConfigError, StorageError
from runner.models.identity import content_hash

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise it when convert.py writes something else
_TEMPORARY = ".converting-"
_STALE_SECONDS = 24 * 3600
_EXCEPTION = re.compile(r"[\w.]+: ")  # the line of a traceback that names the exception


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/batch-runner/models``, or the same under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "batch-runner" / "models"


def converted_folder(gguf_file: Path) -> Path:
    """The model folder of a GGUF file, converted on first use. Any number of processes may ask at once.

    Raises ConfigError when the file cannot be converted, StorageError when the cache cannot be written.
    """
    release = importlib.metadata.version("transformers")
    target = cache_folder() / f"{gguf_file.stem}-{content_hash(gguf_file)[:16]}-transformers{release}-v{_FORMAT}"
    if target.is_dir():
        return target
    logger.info("converting %s once into %s", gguf_file.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_TEMPORARY, ignore_cleanup_errors=True) as temporary:
            made = Path(temporary) / "model"
            _run_conversion(gguf_file, made)
            _publish(made, target)
    except OSError as error:
        raise StorageError(
            f"model.path={gguf_file}: cannot write the converted model to {target.parent} ({error.strerror}); "
            "free some space or set XDG_CACHE_HOME to a writable folder"
        ) from error
    return target


def _run_conversion(gguf_file: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "runner.models.convert", str(gguf_file.resolve()), str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit {result.returncode}"]
        reason = next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])
        raise ConfigError(
            f"model.path={gguf_file} could not be converted ({reason.strip()}); give a folder with safetensors"
        )


def _publish(made: Path, target: Path) -> None:
    """Makes the finished folder visible in one step; whoever comes second keeps the first one's."""
    for file in made.iterdir():
        _sync(file)
    _sync(made)
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Drops what killed conversions left behind."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):  # its owner, or another cleaner, was faster
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
