"""Input from Google Cloud Storage: gcsfs against an emulator of this machine (make test-remote)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
from remote_rows import LINES, OBJECTS, ROWS, values

from runner.config import InputConfig
from runner.errors import ConfigError, StorageError
from runner.input import Change, InventoryReader, build_inventory, compare_inventory

ROOT = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that keeps its objects in memory."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is imported
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    port = _free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="rows")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client, and the bucket `rows` with the same rows in four forms."""
    import gcsfs

    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    gcsfs.GCSFileSystem.clear_instance_cache()
    client = gcsfs.GCSFileSystem()
    for name, content in OBJECTS.items():
        client.pipe_file(f"rows/{name}", content)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield client
    for name in client.ls("rows", detail=False, refresh=True):
        client.rm_file(name)
    gcsfs.GCSFileSystem.clear_instance_cache()


def environment(endpoint: str) -> dict[str, str]:
    """The second spares asking Google itself what kind of bucket it is."""
    return {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_read_as_a_file_whole_and_from_the_middle(bucket: Any, name: str) -> None:
    assert values(f"gs://rows/{name}") == ROWS
    assert values(f"gcs://rows/{name}", 2345, 2350) == ROWS[2345:2350]


def test_patterns_and_local_files_mix(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(LINES)
    assert values(["gs://rows/*.parquet", str(tmp_path / "b.jsonl"), "gs://rows/a.jsonl*"]) == ROWS * 4


def test_an_object_that_changed_or_is_new_is_noticed(bucket: Any) -> None:
    import gcsfs

    config = InputConfig(path="gs://rows/*.jsonl")
    recorded = build_inventory(config)
    assert compare_inventory(recorded, config).change is Change.UNCHANGED
    bucket.pipe_file("rows/a.jsonl", LINES.replace(b"question 0", b"question 9"))
    bucket.pipe_file("rows/b.jsonl", LINES)
    gcsfs.GCSFileSystem.clear_instance_cache()
    found = compare_inventory(recorded, config)
    assert found.change is Change.CHANGED and "gs://rows/a.jsonl" in found.differences[0]
    assert found.new_files == ("gs://rows/b.jsonl",)


@pytest.mark.parametrize("path", ["gs://rows/no.jsonl", "gs://rows/*.csv", "gs://no-such-bucket/a.jsonl"])
def test_what_is_not_there_is_one_line(bucket: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_failure_on_the_way_ends_the_run_in_order(bucket: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import gcsfs

    def refuse(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("gone")

    reader = InventoryReader(build_inventory(InputConfig(path=f"gs://rows/{name}")))
    for fetch in ("_fetch_range", "_async_fetch_range"):
        monkeypatch.setattr(gcsfs.core.GCSFile, fetch, refuse)
    with pytest.raises(StorageError, match=rf"gs://rows/{name} cannot be read on \(RuntimeError: gone\); run again"):
        list(reader.read(0, 5000))


def test_a_whole_run_over_gs(bucket: Any, endpoint: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "job=generate", "engine=echo", "input.path=gs://rows/a.jsonl"]
    own = {**os.environ, **environment(endpoint), "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second finds the job done, and the input as it was
        done = subprocess.run([*command, "output.dir=out"], cwd=tmp_path, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    table = pads.dataset(tmp_path / "out" / "data", format="ipc").to_table()
    assert table.column("n").to_pylist() == list(range(5000))
    assert "nothing was changed" in done.stderr
