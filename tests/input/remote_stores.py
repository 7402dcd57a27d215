"""Object stores of this machine, each with the rows of `remote_rows` in a bucket: moto for S3, an emulator for GCS."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from remote_rows import OBJECTS


@dataclass(frozen=True)
class Store:
    """A bucket `rows` behind ``scheme``; ``forget`` drops what the driver remembers of it."""

    scheme: str
    endpoint: str
    environment: Mapping[str, str]
    client: Any
    forget: Callable[[], None]
    fetches: tuple[tuple[Any, str], ...]  # the driver's methods that get bytes


@contextmanager
def s3(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Everyone may read its objects, so that HTTP can."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    _set(patch, environment)
    forget = s3fs.S3FileSystem.clear_instance_cache
    forget()
    client = s3fs.S3FileSystem(endpoint_url=endpoint)
    client.mkdir("rows", acl="public-read")
    for name, content in OBJECTS.items():
        client.pipe_file(f"rows/{name}", content, ACL="public-read")
    yield Store("s3", endpoint, environment, client, forget, ((s3fs.S3File, "_fetch_range"),))
    client.rm("rows", recursive=True)
    forget()
    server.stop()


@contextmanager
def gs(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The second variable spares asking Google itself what kind of bucket it is; it is read at the import."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    _set(patch, environment)
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="rows")
    server.start()
    forget = gcsfs.GCSFileSystem.clear_instance_cache
    forget()
    client = gcsfs.GCSFileSystem()
    for name, content in OBJECTS.items():
        client.pipe_file(f"rows/{name}", content)
    forget()
    file = gcsfs.core.GCSFile
    yield Store("gs", endpoint, environment, client, forget, ((file, "_fetch_range"), (file, "_async_fetch_range")))
    forget()
    server.stop()


STORES = {"s3": s3, "gs": gs}


def _set(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        patch.setenv(name, value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
