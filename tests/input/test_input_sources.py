"""Input that is no plain local file: addresses of fsspec, saved datasets, dataset folders, the hub; chosen columns."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from runner.config import InputConfig
from runner.errors import ConfigError, StorageError
from runner.input import Change, Inventory, InventoryReader, build_inventory, compare_inventory, repeated_ids
from runner.types import RowError, SourceRow

ROWS = [{"prompt": f"p{i}", "n": i, "deep": {"a": [i]}} for i in range(30)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Any, start: int = 0, **config: Any) -> list[dict[str, Any]]:
    inventory = Inventory.from_json(json.loads(json.dumps(build_inventory(InputConfig(path=path, **config)).to_json())))
    rows = list(InventoryReader(inventory).read(start, inventory.num_rows))
    assert [row.row_id for row in rows] == list(range(start, inventory.num_rows))
    return [row.values for row in rows if isinstance(row, SourceRow)]


def refusal(path: Any, **config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def arrow_bytes(make: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS)
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=8)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def memory() -> Any:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.parquet", parquet_bytes()),
        ("a.arrow", arrow_bytes(pa.ipc.new_file)),
        ("a.arrows", arrow_bytes(pa.ipc.new_stream)),
    ],
)
def test_a_remote_file_is_read_as_a_local_one(memory: Any, name: str, content: bytes) -> None:
    memory.pipe(f"/box/{name}", content)
    assert read(f"memory://box/{name}") == ROWS
    assert read(f"memory://box/{name}", start=11) == ROWS[11:]


def test_remote_patterns_and_local_files_mix_in_order(memory: Any, tmp_path: Path) -> None:
    memory.pipe({"/box/b.jsonl": b'{"prompt": "b"}\n', "/box/a.jsonl": b'{"prompt": "a"}\n', "/box/c.txt": b"x"})
    (tmp_path / "z.jsonl").write_text('{"prompt": "z"}\n')
    rows = read([str(tmp_path / "z.jsonl"), "memory://box/*.jsonl"])
    assert [row["prompt"] for row in rows] == ["z", "a", "b"]


def test_a_remote_file_that_changed_is_noticed(memory: Any) -> None:
    memory.pipe("/box/a.jsonl", LINES)
    config = InputConfig(path="memory://box/a.jsonl")
    recorded = build_inventory(config)
    assert compare_inventory(recorded, config).change is Change.UNCHANGED
    memory.pipe("/box/a.jsonl", LINES.replace(b"p1", b"q1"))
    assert compare_inventory(recorded, config).change is Change.CHANGED


def test_a_missing_driver_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(address: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", no_driver)
    assert "pip install s3fs" in refusal("s3://bucket/a.jsonl")
    assert "pip install gcsfs" in refusal("gs://bucket/*.parquet")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://box/none.jsonl", "names no file"),
        ("memory://box/*.jsonl", "names no file"),
        ("sftp://host/a.jsonl", "this kind of address is not read"),
        ("simplecache::s3://bucket/a.jsonl", "this kind of address is not read"),
        ("dataset:", "names no dataset"),
        ("dataset:x?slice=3", "has the option 'slice'"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_line(memory: Any, path: str, message: str) -> None:
    assert message in refusal(path)


def test_an_error_of_a_driver_is_one_line(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, path: str, **options: Any) -> dict[str, Any]:
        raise PermissionError("no\ncredentials")

    monkeypatch.setattr(type(memory), "info", fail)
    assert "PermissionError: no credentials" in refusal("memory://box/a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow", "a.arrows"])
def test_an_error_of_a_driver_on_the_way_is_one_line_and_no_damage(
    memory: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, size: int = -1) -> bytes:
        raise RuntimeError("the line\nis cut")

    content = {"a.jsonl": LINES, "a.jsonl.gz": gzip.compress(LINES), "a.parquet": parquet_bytes(),
               "a.arrow": arrow_bytes(pa.ipc.new_file), "a.arrows": arrow_bytes(pa.ipc.new_stream)}  # fmt: skip
    memory.pipe(f"/box/{name}", content[name])
    reader = InventoryReader(build_inventory(InputConfig(path=f"memory://box/{name}")))
    monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "read", fail, raising=False)
    with pytest.raises(StorageError, match=r"cannot be read on \(RuntimeError: the line is cut\); run again once"):
        list(reader.read(0, 30))


def test_a_failing_read_in_the_middle_is_an_io_error(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINES)
    inventory = build_inventory(InputConfig(path=str(file)))
    file.unlink()
    with pytest.raises(StorageError, match="No such file"):
        list(InventoryReader(inventory).read(0, 5))


def test_a_saved_dataset_is_read_by_its_folder(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).select(range(29, -1, -1)).save_to_disk(tmp_path / "saved", num_shards=3)
    assert read(str(tmp_path / "saved")) == ROWS[::-1]
    assert read(f"dataset:{tmp_path / 'saved'}", start=12) == ROWS[::-1][12:]


def test_of_several_saved_splits_one_is_chosen(tmp_path: Path) -> None:
    splits = {"train": Dataset.from_list(ROWS[:20]), "test": Dataset.from_list(ROWS[20:])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(f"dataset:{tmp_path / 'saved'}?split=test") == ROWS[20:]
    assert "has the splits train, test" in refusal(str(tmp_path / "saved"))
    assert "has the splits train, test" in refusal(f"dataset:{tmp_path / 'saved'}?split=../saved")


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/hostname", "", 5])
def test_a_saved_dataset_cannot_name_a_file_outside_of_it(tmp_path: Path, name: Any) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "secret")
    (tmp_path / "secret" / "data-00000-of-00001.arrow").rename(tmp_path / "secret.arrow")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert "state.json names" in refusal(str(tmp_path / "saved"))


def test_a_saved_dataset_cannot_link_out_of_its_folder(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    part = tmp_path / "saved" / "data-00000-of-00001.arrow"
    part.rename(tmp_path / "elsewhere.arrow")
    part.symlink_to(tmp_path / "elsewhere.arrow")
    assert "is not there as a file" in refusal(str(tmp_path / "saved"))


def test_a_folder_of_data_files_is_streamed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", ROWS[:20]), ("test", ROWS[20:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = f"dataset:{folder}"
    assert read(path) == ROWS[:20]
    assert read(f"{path}?split=test", start=3) == ROWS[23:]
    assert read(path, limit=4) == ROWS[:4]
    config = InputConfig(path=path)
    recorded = build_inventory(config)
    assert compare_inventory(recorded, config).change is Change.UNCHANGED
    (folder / "train.jsonl").write_text('{"prompt": "other"}\n')
    assert compare_inventory(recorded, config).change is Change.CHANGED
    assert "cannot be streamed" in refusal(f"{path}?split=none")


def test_a_hub_name_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("cannot reach the hub:\noffline mode is enabled")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    message = refusal("dataset:owner/name")
    assert "dataset:owner/name cannot be streamed" in message and "offline mode" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("b.jsonl", LINES + b'{"n": 9, "new": 1, "prompt": "x"}\n[]\n'),
        ("a.parquet", parquet_bytes()),
        ("a.arrow", arrow_bytes(pa.ipc.new_file)),
        ("a.csv", b"n,prompt,other\n" + b"".join(b"%d,p%d,x\n" % (i, i) for i in range(30))),
    ],
)
def test_only_chosen_columns_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    rows = read(str(tmp_path / name), columns=["prompt"])
    assert rows[:30] == [{"prompt": f"p{i}"} for i in range(30)]
    assert len(rows) == 30 + (name == "b.jsonl")
    assert "input.columns: 'x' is no column; the input has" in refusal(str(tmp_path / name), columns=["prompt", "x"])


def test_columns_that_are_not_chosen_are_not_read_from_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"prompt": ["p"] * 1000, "other": [f"{i:0200d}" for i in range(1000)]})
    pq.write_table(table, file, compression="none", use_dictionary=False)
    content = bytearray(file.read_bytes())
    place = content.index(b"%0200d" % 500)
    column = pq.ParquetFile(file).metadata.row_group(0).column(1)
    content[column.data_page_offset : column.data_page_offset + 30] = b"\xff" * 30  # damage is met when it is read
    assert place > column.data_page_offset
    file.write_bytes(content)
    assert len(read(str(file), columns=["prompt"])) == 1000
    with pytest.raises(ConfigError, match="corrupt"):
        read(str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n{"id": null}\n{"id": null}\n'),
        ("a.csv", b"x,id\n1,a\n1,b\n1,a\n"),
        ("a.parquet", None),
        ("a.arrow", None),
    ],
)
def test_ids_that_repeat_are_a_warning(
    tmp_path: Path, name: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file, table = tmp_path / name, pa.table({"x": [1, 2, 3], "id": ["a", "b", "a"]})
    if content is not None:
        file.write_bytes(content)
    elif name == "a.parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    with caplog.at_level(logging.WARNING):
        read(str(file), limit=2)
        assert "repeat" not in caplog.text
        assert len(read(str(file))) >= 3
    assert "column 'id': 1 of the first 3 ids repeat" in caplog.text


def test_ids_are_watched_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(repeated_ids, "MAX_IDS", 4)
    ids = repeated_ids.RepeatedIds()
    ids.add("id", ["a", "b", "c"])
    assert ids.wanted(["x", "id"]) == ["id"]
    ids.add("id", ["d", "a", "a"])
    assert ids.wanted(["id"]) == []
    with caplog.at_level(logging.WARNING):
        ids.warn()
    assert not caplog.text


def test_rows_that_cannot_be_read_are_no_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": [1]}\n{"id": [1]}\n{"id"\n')
    inventory = build_inventory(InputConfig(path=str(tmp_path / "a.jsonl")))
    assert sum(isinstance(row, RowError) for row in InventoryReader(inventory).read(0, 3)) == 1


def test_what_a_driver_logs_of_a_failed_attempt_is_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    refusal("memory://none.jsonl")
    try:
        raise RuntimeError("gone")
    except RuntimeError:
        logging.getLogger("fsspec").exception("attempt 1 failed")  # the package of memory://, as gcsfs does
    assert "attempt 1 failed" in caplog.text and "Traceback" not in caplog.text
