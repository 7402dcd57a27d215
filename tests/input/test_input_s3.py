"""Input from S3 and over HTTP for real: s3fs and aiohttp against a moto server of this machine (make test-remote)."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that keeps its objects in memory."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client, and the bucket `rows` with the same 5,000 rows in four forms, which everyone may read."""
    import s3fs

    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem(endpoint_url=endpoint)
    client.mkdir("rows", acl="public-read")
    for name, content in OBJECTS.items():
        client.pipe_file(f"rows/{name}", content, ACL="public-read")
    yield client
    client.rm("rows", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_read_as_a_file_whole_and_from_the_middle(bucket: Any, name: str) -> None:
    assert values(f"s3://rows/{name}") == ROWS
    assert values(f"s3://rows/{name}", 2345, 2350) == ROWS[2345:2350]


@pytest.mark.parametrize("name", OBJECTS)
def test_the_same_over_http(bucket: Any, endpoint: str, name: str) -> None:
    assert values(f"{endpoint}/rows/{name}") == ROWS
    assert values(f"{endpoint}/rows/{name}", 2345, 2350) == ROWS[2345:2350]


def test_patterns_and_local_files_mix(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(LINES)
    assert values(["s3://rows/*.parquet", str(tmp_path / "b.jsonl"), "s3://rows/a.jsonl*"]) == ROWS * 4


def test_an_object_that_changed_or_is_gone_is_noticed(bucket: Any) -> None:
    import s3fs

    config = InputConfig(path="s3://rows/*.jsonl")
    recorded = build_inventory(config)
    assert compare_inventory(recorded, config).change is Change.UNCHANGED
    bucket.pipe_file("rows/a.jsonl", LINES.replace(b"question 0", b"question 9"))
    bucket.pipe_file("rows/b.jsonl", LINES)
    s3fs.S3FileSystem.clear_instance_cache()
    found = compare_inventory(recorded, config)
    assert found.change is Change.CHANGED and "s3://rows/a.jsonl" in found.differences[0]
    assert found.new_files == ("s3://rows/b.jsonl",)


@pytest.mark.parametrize("path", ["s3://rows/no.jsonl", "s3://rows/*.csv", "s3://no-such-bucket/a.jsonl"])
def test_what_is_not_there_is_one_line(bucket: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_failure_on_the_way_ends_the_run_in_order(bucket: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    def refuse(*_: Any) -> bytes:
        raise RuntimeError("gone")

    reader = InventoryReader(build_inventory(InputConfig(path=f"s3://rows/{name}")))
    monkeypatch.setattr(s3fs.S3File, "_fetch_range", refuse)
    with pytest.raises(StorageError, match=rf"s3://rows/{name} cannot be read on \(RuntimeError: gone\); run again"):
        list(reader.read(0, 5000))


def test_an_endpoint_that_does_not_answer_is_no_misspelling(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(
        ConfigError, match=r"cannot be read \(EndpointConnectionError: .*check the address and the cred"
    ):
        values("s3://rows/a.jsonl")


def test_a_whole_run_over_s3(bucket: Any, endpoint: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "job=generate", "engine=echo", "input.path=s3://rows/a.jsonl"]
    own = {**os.environ, **environment(endpoint), "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second finds the job done, and the input as it was
        done = subprocess.run([*command, "output.dir=out"], cwd=tmp_path, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    table = pads.dataset(tmp_path / "out" / "data", format="ipc").to_table()
    assert table.column("n").to_pylist() == list(range(5000))
    assert "nothing was changed" in done.stderr
