"""Properties of the readers: nothing that a file holds ends the run, merges rows, or slips through unchecked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strict_json import Strict

from runner.config import InputConfig
from runner.input import InventoryReader, build_inventory
from runner.input.json_lines import LineError, parse_line, parse_lines
from runner.types import SourceRow

FRAGMENTS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b'"a"', b'"b"', b"1", b"-1.5e3", b"null", b"true", b" ", b"\\",
             b"\\u0061", b"\xff", b"\xc3\xa9", b"9223372036854775808", b"1e999", b'{"a":1}', b'"x\\":"']  # fmt: skip
lines = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join), st.binary(max_size=30))


@settings(max_examples=2000, deadline=None)
@given(line=lines.filter(lambda line: b"\n" not in line))
def test_a_line_is_a_row_exactly_when_the_strict_reference_says_so(line: bytes) -> None:
    expected = Strict.parse(line)
    try:
        assert parse_line(line) == expected
    except LineError:
        assert expected is None


@settings(max_examples=1000, deadline=None)
@given(batch=st.lists(lines.filter(lambda line: line.strip() and b"\n" not in line), max_size=6))
def test_lines_parsed_together_are_lines_parsed_alone(batch: list[bytes]) -> None:
    for line, row in zip(batch, parse_lines(batch).rows, strict=True):
        try:
            assert row == parse_line(line)
        except LineError as error:
            assert isinstance(row, LineError) and row.code == error.code


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(data=b"\xef\xbb\xbf{}", block=1, start=0)
@example(data=b"\n[", block=1, start=0)
@given(data=st.lists(lines, max_size=30).map(b"\n".join), block=st.integers(1, 40), start=st.integers(0, 10))
def test_any_bytes_give_one_value_a_line_whatever_the_blocks(
    data: bytes, block: int, start: int, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(data)
    body = data.removeprefix(b"\xef\xbb\xbf")
    first = next((line.strip() for line in body.split(b"\n") if line.strip()), b"")
    utf16, packed = (b"\xff\xfe", b"\xfe\xff"), (b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
    if first.startswith(utf16 + packed) or first == b"[":
        return  # refused as a whole: it is another format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.input.lines.BLOCK_BYTES", block)
        inventory = build_inventory(InputConfig(path=str(file)))
        rows = list(InventoryReader(inventory).read(0, inventory.num_rows))
        assert list(InventoryReader(inventory).read(start, inventory.num_rows)) == rows[start:]
    assert len(rows) == sum(1 for line in body.split(b"\n") if line.strip())
    names = inventory.schema.names
    assert all(list(row.values) == names for row in rows if isinstance(row, SourceRow))
