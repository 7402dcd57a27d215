"""The matrix of bad input, whole files: accepted and counted, or refused with one clear line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from input_support import GOOD, run_all
from tiny_text import save_tokenizer
from transformers import AutoTokenizer

from runner.config import InputConfig
from runner.errors import ConfigError
from runner.input import InventoryReader, build_inventory, compression, lines, refuse_absent
from runner.input.compression import ByteStream
from runner.text import TextTokenizer
from runner.types import Request, RowError, SourceRow


def test_the_last_line_may_be_cut(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + b'{"prompt": "x')
    rows, _, _ = run_all(file, tokenizer)
    assert isinstance(rows[1], RowError) and rows[1].line == 2


def test_a_bom_and_a_last_line_without_newline_are_accepted(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD + GOOD.rstrip())
    rows, _, _ = run_all(file, tokenizer)
    assert [row.values for row in rows if isinstance(row, SourceRow)] == [{"prompt": "good"}] * 2


def test_a_line_over_the_limit_is_read_past(
    tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100_000)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + b'{"prompt": "' + b"x" * 500_000 + b'"}\n' + GOOD)
    rows, _, _ = run_all(file, tokenizer)
    assert isinstance(rows[1], RowError) and rows[1].code == "line_too_long" and rows[1].line == 2
    assert rows[1].raw == '{"prompt": "' + "x" * (4096 - 12)
    assert isinstance(rows[2], SourceRow)


def test_zero_tokens_are_quarantined_and_counted(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save_tokenizer(tmp_path_factory.mktemp("no_bos"), None)
    reference = AutoTokenizer.from_pretrained(folder)
    reference._tokenizer.post_processor = tokenizers.processors.ByteLevel()
    reference._tokenizer.save(str(folder / "tokenizer.json"))
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + b'{"prompt": ""}\n')
    _, rendered, renderer = run_all(file, TextTokenizer(folder))
    assert isinstance(rendered[1][0], RowError) and rendered[1][0].code == "no_tokens"
    assert renderer.counts.empty_prompts == 1


def test_an_answer_over_the_context_is_clamped_and_counted(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "' + b"z" * 189 + b'"}\n')
    _, rendered, renderer = run_all(file, tokenizer, chat=False)
    request = rendered[0][0]
    assert isinstance(request, Request)
    assert len(request.prompt_token_ids) + request.sampling.max_tokens == 200
    assert renderer.counts.clamped == 1


def test_a_long_prompt_is_cut_only_when_asked(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "' + b"z" * 300 + b'y"}\n')
    _, rendered, renderer = run_all(file, tokenizer, chat=False, truncate_prompt=True)
    request = rendered[0][0]
    assert isinstance(request, Request) and request.truncated
    assert tokenizer.decode(request.prompt_token_ids) == "z" * 179 + "y"
    assert renderer.counts.truncated == 1


def test_no_rows_at_all_are_accepted(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n\n")
    rows, rendered, _ = run_all(file, tokenizer, template="{{ topic }}")
    assert rows == [] and rendered == []


def test_a_parquet_string_that_is_not_utf8_is_quarantined(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"prompt": broken, "id": [1, 2, 3]}), tmp_path / "rows.parquet")
    rows, _, _ = run_all(tmp_path / "rows.parquet", tokenizer)
    assert isinstance(rows[1], RowError) and rows[1].code == "invalid_utf8" and "'prompt'" in rows[1].message
    assert [row.values for row in rows if isinstance(row, SourceRow)] == [
        {"prompt": "good", "id": 1},
        {"prompt": "fine", "id": 3},
    ]


def good_parquet(folder: Path) -> Path:
    file = folder / "rows.parquet"
    pq.write_table(pa.table({"prompt": [f"prompt {i}" for i in range(2000)]}), file, row_group_size=1000)
    return file


def truncated_parquet(folder: Path) -> Any:
    file = good_parquet(folder)
    file.write_bytes(file.read_bytes()[:-20])
    return file


def empty_parquet(folder: Path) -> Any:
    (folder / "rows.parquet").write_bytes(b"")
    return folder / "rows.parquet"


def corrupt_page(folder: Path) -> Any:
    file = good_parquet(folder)
    offset = pq.ParquetFile(file).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(file.read_bytes())
    data[offset : offset + 200] = b"\xff" * 200
    file.write_bytes(data)
    return file


def corrupt_id_page(folder: Path) -> Any:
    file = folder / "rows.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "prompt": ["x", "y"]}), file, use_dictionary=False)
    data = bytearray(file.read_bytes())
    offset = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset
    data[offset : offset + 12] = b"\xff" * 12
    file.write_bytes(data)
    return file


def deep_parquet(folder: Path, num_levels: int) -> Any:
    kind = pa.int64()
    for _ in range(num_levels):
        kind = pa.struct([("a", kind)])
    pq.write_table(pa.table({"prompt": ["x"], "deep": pa.nulls(1, kind)}), folder / "rows.parquet")
    return folder / "rows.parquet"


def pipe(folder: Path) -> Any:
    os.mkfifo(folder / "rows.jsonl")
    return folder / "rows.jsonl"


def broken_gzip(folder: Path) -> Any:
    file = folder / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(GOOD * 1000)[:-10])
    return file


def gzip_bomb(folder: Path) -> Any:
    file = folder / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b"x" * 30_000_000))
    return file


def other_columns(folder: Path) -> Any:
    pq.write_table(pa.table({"prompt": ["x"]}), folder / "a.parquet")
    pq.write_table(pa.table({"prompt": ["x"], "topic": ["y"]}), folder / "b.parquet")
    return str(folder / "*.parquet")


def other_types(folder: Path) -> Any:
    pq.write_table(pa.table({"prompt": ["x"]}), folder / "a.parquet")
    pq.write_table(pa.table({"prompt": [1]}), folder / "b.parquet")
    return str(folder / "*.parquet")


def jsonl(folder: Path, content: bytes = GOOD, name: str = "rows.jsonl") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


REFUSED: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any]]] = {
    "truncated Parquet": (truncated_parquet, "rows.parquet is not a whole Parquet file", {}),
    "empty Parquet": (empty_parquet, "rows.parquet is not a whole Parquet file", {}),
    "corrupt Parquet page": (corrupt_page, "rows.parquet is corrupt in row group 1", {}),
    "corrupt Parquet page of ids": (corrupt_id_page, "rows.parquet is corrupt in column 'id'", {}),
    "Parquet nested deeper than Arrow files": (
        lambda folder: deep_parquet(folder, 70),
        "column 'deep' is nested over 40 levels",
        {},
    ),
    "Parquet nested deeper than its reader goes": (lambda folder: deep_parquet(folder, 200), "too deeply nested", {}),
    "a pipe": (pipe, "is no regular file", {}),
    "broken gzip": (broken_gzip, "rows.jsonl.gz is not a whole compressed file", {}),
    "gzip bomb": (gzip_bomb, "unpacks to over", {}),
    "other columns": (other_columns, r"a.parquet lacks the columns \['topic'\]", {}),
    "other types": (other_types, "column 'prompt' is int64 in .*b.parquet but string", {}),
    "glob that matches nothing": (lambda folder: str(folder / "*.jsonl"), "matches no file", {}),
    "file that does not exist": (lambda folder: folder / "no.jsonl", "does not exist", {}),
    "a folder": (lambda folder: folder, "is a folder", {}),
    "a remote address without a driver": (lambda folder: "nosuch://bucket/x.jsonl", "nosuch://bucket/x.jsonl", {}),
    "no path": (lambda folder: [], "names no file", {}),
    "unknown suffix": (
        lambda folder: jsonl(folder, name="rows.txt"),
        r"to one of jsonl, parquet, arrow, csv, tsv$",
        {},
    ),
    "a name that is too long": (lambda folder: "x" * 300, "cannot be looked up", {}),
    "UTF-16": (lambda folder: jsonl(folder, GOOD.decode().encode("utf-16")), "is UTF-16", {}),
    "a JSON array": (lambda folder: jsonl(folder, b'[\n {"prompt": "x"}\n]'), "is one JSON array", {}),
    "a JSON array on one line": (
        lambda folder: jsonl(folder, b'\n [{"prompt": "x"}, {"prompt": "y"}]', "rows.json"),
        r"is one JSON array.*jq -c '\.\[\]' rows\.json > rows\.jsonl",
        {},
    ),
    "output inside the glob": (lambda folder: jsonl(folder) and str(folder / "**/*"), "output folder", {"out": "."}),
    "prompt column absent": (lambda folder: jsonl(folder, b'{"topic": "x"}\n'), "prompt_column", {}),
    "template variable that is no column": (
        lambda folder: jsonl(folder),
        "job.template uses 'topic', but the input's columns are prompt",
        {"template": "{{ topic }}"},
    ),
    "template with a syntax error": (lambda folder: jsonl(folder), "job.template: line 1", {"template": "{{ prompt"}),
    "system prompt in raw mode": (
        lambda folder: jsonl(folder),
        "job.system_prompt",
        {"system_prompt": "x", "chat": False},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message, options = REFUSED[name]
    monkeypatch.setattr(compression, "BOMB_BYTES", 1 << 20)
    output_dir = tmp_path / options["out"] if "out" in options else None
    path = make(tmp_path)
    with pytest.raises(ConfigError, match=message) as error:
        run_all(path, tokenizer, output_dir, **{k: v for k, v in options.items() if k != "out"})
    assert "\n" not in str(error.value)


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data).to_pybytes()


@pytest.mark.parametrize("blank", [b"\n", b" \t\r\n"], ids=["empty", "blank"])
@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)]
)
def test_a_bomb_of_blank_lines_is_not_read_through(
    suffix: str, pack: Callable[[bytes], bytes], blank: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a GB of them stays under what counts as a bomb of any kind; the limit on blank lines is 16 MiB."""
    file = tmp_path / f"rows.jsonl{suffix}"
    file.write_bytes(pack(GOOD) + pack(blank * (8_000_000 // len(blank))) * 64 + pack(GOOD))
    assert file.stat().st_size < 2_000_000
    num_unpacked, read = 0, ByteStream.read

    def counting(stream: ByteStream, size: int) -> bytes:
        nonlocal num_unpacked
        block = read(stream, size)
        num_unpacked += len(block)
        return block

    monkeypatch.setattr(ByteStream, "read", counting)
    with pytest.raises(ConfigError, match=rf"{suffix} has over 16 MiB of blank lines on end about line \d+; remove"):
        build_inventory(InputConfig(path=str(file)))
    assert 16_000_000 < num_unpacked < 18_000_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_blank_lines_within_the_limit_are_passed_over(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_BLANK_BYTES", 300_000)
    row = GOOD if suffix == ".jsonl" else b"good\n"
    file = tmp_path / f"rows{suffix}"
    file.write_bytes((b"" if suffix == ".jsonl" else b"prompt\n") + (row + b"\n" * 250_000) * 3 + row)
    inventory = build_inventory(InputConfig(path=str(file)))
    rows = list(InventoryReader(inventory).read(0, 4))
    assert [row.values for row in rows if isinstance(row, SourceRow)] == [{"prompt": "good"}] * 4
    file.write_bytes(row + b" \n" * 250_000 + row)
    with pytest.raises(ConfigError, match="of blank lines on end about line"):
        build_inventory(InputConfig(path=str(file)))


def test_a_long_line_of_blanks_is_a_bad_row_wherever_its_text_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its beginning is kept, so nothing tells it from one that holds a row after the blanks."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100_000)
    monkeypatch.setattr(lines, "MAX_BLANK_BYTES", 200_000)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + b" " * 500_000 + GOOD + GOOD)
    inventory = build_inventory(InputConfig(path=str(file)))
    rows = list(InventoryReader(inventory).read(0, 9))
    assert [row.line for row in rows] == [1, 2, 3]
    assert isinstance(rows[1], RowError) and rows[1].code == "line_too_long"


@pytest.mark.parametrize("key", ["prompt_column", "messages_column", "prompt_token_ids_column", "sampling_column"])
def test_a_column_that_was_named_must_be_there(key: str) -> None:
    rows = InputConfig(path="x", **{key: "chat"})
    with pytest.raises(ConfigError, match=rf"input\.{key}=chat: no such column; there are prompt, topic"):
        refuse_absent(rows, ["prompt", "topic"])
    refuse_absent(rows, ["prompt", "chat"])
    refuse_absent(rows, [])  # an input without rows has no columns
