"""Input files wherever they lie: on this machine, or behind an address that fsspec can open.

Credentials come from the environment, as each driver reads them; an address that holds one is refused, because
addresses are recorded with the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from runner.errors import ConfigError

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
        return filesystem.open(path, "rb")


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
        files = [filesystem.unstrip_protocol(name) for name in found if filesystem.isfile(name)]
    if not files:
        raise ConfigError(f"input.path={address!r} names no file there; check the spelling")
    return files


def _filesystem(address: str) -> Any:
    scheme = address.partition("://")[0]
    if scheme not in _DRIVERS or "::" in address:
        raise ConfigError(
            f"input.path={address!r}: this kind of address is not read; use {', '.join(_DRIVERS)}, or a local path"
        )
    import fsspec  # type: ignore[import-untyped]

    try:
        with _one_line(address):
            return fsspec.core.url_to_fs(address)[0]
    except ImportError:
        raise ConfigError(
            f"input.path={address!r}: {scheme}:// needs the package {_DRIVERS[scheme]}; "
            f"pip install {_DRIVERS[scheme]}, or copy the file to this machine"
        ) from None


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Drivers raise what they like; the user gets one line."""
    try:
        yield
    except (ImportError, ConfigError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"input.path={address!r} cannot be read ({type(error).__name__}: {reason}); "
            "check the address and the credentials in the environment"
        ) from error


def _refuse_secret(address: str) -> None:
    parts = urlsplit(address)
    shown = f"{parts.scheme}://...{parts.path}"
    if parts.password is not None or any(_SECRET_PARAMETER.search(name) for name, _ in parse_qsl(parts.query)):
        raise ConfigError(
            f"input.path={shown!r} holds a secret, and addresses are written to disk; "
            "give credentials in the environment, as the driver reads them"
        )
