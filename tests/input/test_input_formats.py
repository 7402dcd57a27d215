"""Every format: the same rows come out, any range can be sought, damage is refused."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import InputConfig, InputFormat
from runner.errors import ConfigError
from runner.input import InventoryReader, build_inventory
from runner.input.formats import delimited
from runner.types import RowError, SourceRow

ROWS = [{"prompt": f"prompt {i}\u2028é", "n": str(i)} for i in range(3000)]


def jsonl_bytes(rows: list[dict[str, Any]]) -> bytes:
    return b"\n".join(map(orjson.dumps, rows)) + b"\n"


def write_parquet(file: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=700)


def write_arrow_file(file: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table, max_chunksize=700)


def write_arrow_stream(file: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def write_delimited(file: Path) -> None:
    delimiter = "," if ".csv" in file.name else "\t"
    lines = [delimiter.join(("prompt", "n")), *(f'"{row["prompt"]}"{delimiter}{row["n"]}' for row in ROWS)]
    file.write_text("\n".join(lines) + "\n")


def write_bytes(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(compress(jsonl_bytes(ROWS))) and None


WRITERS: dict[str, Callable[[Path], None]] = {
    "rows.jsonl": write_bytes(bytes),
    "rows.ndjson": write_bytes(lambda data: data.replace(b"\n", b"\r\n")),
    "rows.jsonl.gz": write_bytes(gzip.compress),
    "rows.jsonl.bz2": write_bytes(bz2.compress),
    "rows.jsonl.xz": write_bytes(lzma.compress),
    "rows.jsonl.zst": write_bytes(lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
    "rows.parquet": write_parquet,
    "rows.arrow": write_arrow_file,
    "rows.arrows": write_arrow_stream,
    "rows.csv": write_delimited,
    "rows.tsv": write_delimited,
}


def reader_of(path: Any) -> tuple[InventoryReader, int]:
    inventory = build_inventory(InputConfig(path=str(path)))
    return InventoryReader(inventory), inventory.num_rows


@pytest.mark.parametrize("name", WRITERS)
def test_all_rows_and_any_range(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.input.lines.BLOCK_BYTES", 4096)
    monkeypatch.setattr(delimited, "MARK_ROWS", 100)
    WRITERS[name](tmp_path / name)
    reader, num_rows = reader_of(tmp_path / name)
    expected = [SourceRow(i, row) for i, row in enumerate(ROWS)]
    assert num_rows == len(ROWS)
    assert list(reader.read(0, num_rows)) == expected
    for start, stop in ((0, 1), (699, 701), (1400, 1400), (1234, 2345), (2999, 9999)):
        assert list(reader.read(start, stop)) == expected[start:stop]


def test_a_compressed_file_says_that_it_cannot_be_sought(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WRITERS["rows.jsonl.gz"](tmp_path / "rows.jsonl.gz")
    reader, _ = reader_of(tmp_path / "rows.jsonl.gz")
    with caplog.at_level(logging.INFO):
        next(iter(reader.read(10, 20)))
    assert "cannot be sought" in caplog.text


def test_seeking_reads_only_near_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row at the end is reached without reading the beginning of the file."""
    monkeypatch.setattr("runner.input.lines.BLOCK_BYTES", 4096)
    file = tmp_path / "rows.jsonl"
    WRITERS[file.name](file)
    reader, num_rows = reader_of(file)
    data = bytearray(file.read_bytes())
    data[: len(data) // 2] = b"\n" * (len(data) // 2)
    file.write_bytes(data)
    assert next(iter(reader.read(num_rows - 1, num_rows))) == SourceRow(num_rows - 1, ROWS[-1])


def test_formats_and_globs_mix(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet", "c.csv"):
        suffix = "rows" + Path(name).suffix
        WRITERS[suffix](tmp_path / name)
    inventory = build_inventory(InputConfig(path=[str(tmp_path / "b.jsonl"), str(tmp_path / "*.[pc]*")]))
    assert [Path(file.path).name for file in inventory.files] == ["b.jsonl", "a.parquet", "c.csv"]
    rows = list(InventoryReader(inventory).read(2999, 6001))
    assert [row.row_id for row in rows] == list(range(2999, 6001))
    assert all(isinstance(row, SourceRow) for row in rows)


def test_the_format_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(jsonl_bytes(ROWS))
    config = InputConfig(path=str(tmp_path / "rows.txt"), format=InputFormat.jsonl)
    assert build_inventory(config).num_rows == len(ROWS)


def test_columns_that_loaders_cannot_open_become_plain(tmp_path: Path) -> None:
    table = pa.table(
        {
            "word": pa.array(["a", None, "a"]).dictionary_encode(),
            "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
            "nested": pa.array([{"x": [1]}, None, {"x": None}]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    inventory = build_inventory(InputConfig(path=str(tmp_path / "rows.parquet")))
    assert inventory.schema.field("word").type == pa.string()
    values = [row.values for row in InventoryReader(inventory).read(0, 3) if isinstance(row, SourceRow)]
    assert values == [
        {"word": "a", "map": [{"key": "k", "value": 1}], "nested": {"x": [1]}},
        {"word": None, "map": None, "nested": None},
        {"word": "a", "map": [], "nested": {"x": None}},
    ]
    assert pa.Table.from_pylist(values, schema=inventory.schema).to_pylist() == values


CSV_LINES = {
    "a quoted newline": (b'"a\nb",1', ("a\nb", "1"), None),
    "a quoted quote": (b'"a""b",1', ('a"b', "1"), None),
    "too few fields": (b"a", None, "wrong_field_count"),
    "too many fields": (b"a,1,2", None, "wrong_field_count"),
    "text after a quote": (b'"a"b,1', None, "invalid_csv"),
    "invalid UTF-8": (b"\xff,1", None, "invalid_utf8"),
    "empty fields": (b",", ("", ""), None),
}


@pytest.mark.parametrize("name", CSV_LINES)
def test_a_csv_record(name: str, tmp_path: Path) -> None:
    text, fields, code = CSV_LINES[name]
    (tmp_path / "rows.csv").write_bytes(b"prompt,n\nx,1\n\n" + text + b"\ny,2\n")
    reader, num_rows = reader_of(tmp_path / "rows.csv")
    first, middle, last = reader.read(0, num_rows)
    assert isinstance(first, SourceRow) and isinstance(last, SourceRow) and last.values["prompt"] == "y"
    if fields:
        assert isinstance(middle, SourceRow) and tuple(middle.values.values()) == fields
    else:
        assert isinstance(middle, RowError) and (middle.code, middle.line) == (code, 4)


@pytest.mark.parametrize("header", [b"a,a\n1,2\n", b"a,\n1,2\n"])
def test_a_csv_header_names_each_column_once(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(header)
    with pytest.raises(ConfigError, match="header"):
        reader_of(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["rows.arrow", "rows.arrows"])
def test_an_arrow_file_cut_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=name):
            reader_of(tmp_path / name)


def test_an_arrow_string_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    reader, _ = reader_of(tmp_path / "rows.arrow")
    assert [getattr(row, "code", None) for row in reader.read(0, 3)] == [None, "invalid_utf8", None]


PACKED = {
    "rows.jsonl": "rename it to rows.jsonl.{suffix}$",
    "rows.csv": "rename it to rows.csv.{suffix}$",
    "rows.parquet": "unpack it: {program} -dc < rows.parquet > FILE$",
    "rows.arrow": "unpack it: {program} -dc < rows.arrow > FILE$",
    "rows.parquet.gz": "unpack it: {program} -dc < rows.parquet.gz > FILE$",
}


@pytest.mark.parametrize(
    ("program", "suffix", "pack"),
    [
        ("gzip", "gz", gzip.compress),
        ("bzip2", "bz2", bz2.compress),
        ("xz", "xz", lzma.compress),
        ("zstd", "zst", lambda data: pa.Codec("zstd").compress(data).to_pybytes()),
    ],
)
@pytest.mark.parametrize("name", PACKED)
def test_a_compressed_file_whose_name_does_not_say_so_is_refused(
    name: str, program: str, suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(pack(jsonl_bytes(ROWS)))
    fix = PACKED[name].format(program=program, suffix=suffix)
    with pytest.raises(ConfigError, match=f"input.path: .*/{name} looks {program}-compressed; {fix}"):
        build_inventory(InputConfig(path=str(tmp_path / name)))


def test_a_file_that_is_compressed_twice_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(gzip.compress(jsonl_bytes(ROWS))))
    with pytest.raises(ConfigError, match=r"unpack it: gzip -dc < rows\.jsonl\.gz > FILE"):
        build_inventory(InputConfig(path=str(tmp_path / "rows.jsonl.gz")))
