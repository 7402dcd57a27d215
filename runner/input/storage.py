"""Input files wherever they lie: on this machine, or behind an address that fsspec can open.

Credentials come from the environment, as each driver reads them; an address that holds one is refused, because
addresses are recorded with the job.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

from runner.errors import ConfigError, StorageError

_DRIVERS: Mapping[str, str] = MappingProxyType(
    {
        "s3": "s3fs",
        "s3a": "s3fs",
        "gs": "gcsfs",
        "gcs": "gcsfs",
        "hf": "huggingface_hub",
        "az": "adlfs",
        "abfs": "adlfs",
        "http": "aiohttp",
        "https": "aiohttp",
        "memory": "fsspec",
    }
)
"""The schemes that are read, and the package that brings the driver of each."""

_SECRET_PARAMETER = re.compile(r"token|secret|signature|\bsig\b|credential|password|key", re.IGNORECASE)


def is_remote(path: str) -> bool:
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """The file for reading; it can seek."""
    if not is_remote(path):
        return Path(path).open("rb")
    filesystem = _filesystem(path)
    with _one_line(path):
        return cast(BinaryIO, _RemoteFile(filesystem.open(path, "rb"), path))


class _RemoteFile:
    """An open file of fsspec whose failures on the way end the run in order, as those of a disk do.

    Drivers raise their own kinds there, such as botocore's, and readers would take an OSError for a damaged file.
    """

    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _RemoteFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            raise StorageError(
                f"input.path: {self._path} cannot be read on ({_reason(error)}); run again once it can be"
            ) from error


def size_of(path: str) -> int:
    """Bytes of the file."""
    if not is_remote(path):
        return Path(path).stat().st_size
    filesystem = _filesystem(path)
    with _one_line(path):
        return int(filesystem.size(path))


def exists(path: str) -> bool:
    if not is_remote(path):
        return Path(path).exists()
    filesystem = _filesystem(path)
    with _one_line(path):
        return bool(filesystem.exists(path))


def list_remote(address: str) -> list[str]:
    """The file at an address, or the files that its pattern matches, sorted.

    Raises ConfigError, in one line, for an address that cannot be read or names nothing.
    """
    _refuse_secret(address)
    filesystem = _filesystem(address)
    with _one_line(address):
        found = sorted(filesystem.glob(address)) if re.search(r"[*?\[]", address) else [address]
        files = [filesystem.unstrip_protocol(name) for name in found if _is_file(filesystem, name)]
    if not files:
        raise ConfigError(f"input.path={address!r} names no file there; check the spelling")
    return files


def _is_file(filesystem: Any, name: str) -> bool:
    """fsspec's own `isfile` says no, too, where the address cannot be reached or is forbidden."""
    try:
        return bool(filesystem.info(name)["type"] == "file")
    except FileNotFoundError:
        return False


def _filesystem(address: str) -> Any:
    scheme = address.partition("://")[0]
    if scheme not in _DRIVERS or "::" in address:
        raise ConfigError(
            f"input.path={address!r}: this kind of address is not read; use {', '.join(_DRIVERS)}, or a local path"
        )
    import fsspec  # type: ignore[import-untyped]

    logging.getLogger(_DRIVERS[scheme]).addFilter(_without_traceback)
    try:
        with _one_line(address):
            return fsspec.core.url_to_fs(address)[0]
    except ImportError:
        raise ConfigError(
            f"input.path={address!r}: {scheme}:// needs the package {_DRIVERS[scheme]}; "
            f"pip install {_DRIVERS[scheme]}, or copy the file to this machine"
        ) from None


def _without_traceback(record: logging.LogRecord) -> bool:
    """Some drivers log each failed attempt with its traceback; what comes of it is raised, and told in one line."""
    record.exc_info = None
    return True


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Drivers raise what they like; the user gets one line."""
    try:
        yield
    except (ImportError, ConfigError):
        raise
    except Exception as error:
        raise ConfigError(
            f"input.path={address!r} cannot be read ({_reason(error)}); "
            "check the address and the credentials in the environment"
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _refuse_secret(address: str) -> None:
    parts = urlsplit(address)
    shown = f"{parts.scheme}://...{parts.path}"
    if parts.password is not None or any(_SECRET_PARAMETER.search(name) for name, _ in parse_qsl(parts.query)):
        raise ConfigError(
            f"input.path={shown!r} holds a secret, and addresses are written to disk; "
            "give credentials in the environment, as the driver reads them"
        )
