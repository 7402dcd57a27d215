"""Input from S3, Google Cloud Storage and over HTTP: the drivers against servers of this machine (make test-remote)."""

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
from remote_stores import STORES, Store, s3

from runner.config import InputConfig
from runner.errors import ConfigError, StorageError
from runner.input import Change, InventoryReader, build_inventory, compare_inventory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with STORES[request.param](monkeypatch) as store:
        yield store


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with s3(monkeypatch) as store:
        yield store


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_read_as_a_file_whole_and_from_the_middle(store: Store, name: str) -> None:
    assert values(f"{store.scheme}://rows/{name}") == ROWS
    assert values(f"{store.scheme}://rows/{name}", 2345, 2350) == ROWS[2345:2350]


def test_google_has_two_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    with STORES["gs"](monkeypatch):
        assert values("gcs://rows/a.jsonl", 2345, 2350) == ROWS[2345:2350]


@pytest.mark.parametrize("name", OBJECTS)
def test_the_same_over_http(s3_store: Store, name: str) -> None:
    assert values(f"{s3_store.endpoint}/rows/{name}") == ROWS
    assert values(f"{s3_store.endpoint}/rows/{name}", 2345, 2350) == ROWS[2345:2350]


def test_patterns_and_local_files_mix(store: Store, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(LINES)
    paths = [f"{store.scheme}://rows/*.parquet", str(tmp_path / "b.jsonl"), f"{store.scheme}://rows/a.jsonl*"]
    assert values(paths) == ROWS * 4


def test_an_object_that_changed_or_is_new_is_noticed(store: Store) -> None:
    config = InputConfig(path=f"{store.scheme}://rows/*.jsonl")
    recorded = build_inventory(config)
    assert compare_inventory(recorded, config).change is Change.UNCHANGED
    store.client.pipe_file("rows/a.jsonl", LINES.replace(b"question 0", b"question 9"))
    store.client.pipe_file("rows/b.jsonl", LINES)
    store.forget()
    found = compare_inventory(recorded, config)
    assert found.change is Change.CHANGED and f"{store.scheme}://rows/a.jsonl" in found.differences[0]
    assert found.new_files == (f"{store.scheme}://rows/b.jsonl",)


@pytest.mark.parametrize("path", ["rows/no.jsonl", "rows/*.csv", "no-such-bucket/a.jsonl"])
def test_what_is_not_there_is_one_line(store: Store, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(f"{store.scheme}://{path}")
    assert f"{store.scheme}://{path}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_failure_on_the_way_ends_the_run_in_order(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("gone")

    path = f"{store.scheme}://rows/{name}"
    reader = InventoryReader(build_inventory(InputConfig(path=path)))
    for owner, fetch in store.fetches:
        monkeypatch.setattr(owner, fetch, refuse)
    with pytest.raises(StorageError, match=rf"{path} cannot be read on \(RuntimeError: gone\); run again"):
        list(reader.read(0, 5000))


def test_an_endpoint_that_does_not_answer_is_no_misspelling(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3_store.forget()
    with pytest.raises(
        ConfigError, match=r"cannot be read \(EndpointConnectionError: .*check the address and the cred"
    ):
        values("s3://rows/a.jsonl")


def test_a_whole_run(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "job=generate", "engine=echo"]
    command += [f"input.path={store.scheme}://rows/a.jsonl", "output.dir=out"]
    own = {**os.environ, **store.environment, "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second finds the job done, and the input as it was
        done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    table = pads.dataset(tmp_path / "out" / "data", format="ipc").to_table()
    assert table.column("n").to_pylist() == list(range(5000))
    assert "nothing was changed" in done.stderr
