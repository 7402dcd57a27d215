"""The inventory: recorded once, compared later, extended without moving a row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_support import USER

from runner.config import InputConfig
from runner.errors import ConfigError
from runner.input import (
    Change,
    Inventory,
    InventoryReader,
    build_inventory,
    compare_inventory,
    extend_inventory,
)
from runner.input.formats import marks
from runner.types import RowError, SourceRow


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    (folder / name).write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    return folder / name


def test_it_survives_json(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", {"x": 1, "tags": ["a"], "deep": {"k": [1.5]}})
    inventory = build_inventory(InputConfig(path=str(tmp_path / "*.jsonl")))
    assert Inventory.from_json(orjson.loads(orjson.dumps(inventory.to_json()))) == inventory


def test_nulls_missing_keys_and_mixed_numbers_widen(tmp_path: Path) -> None:
    write(
        tmp_path, "a.jsonl", {"a": None, "n": 1, "t": []}, {"n": 1.5, "a": "x", "t": [{"k": 1}]}, {"b": True, "z": None}
    )
    schema = build_inventory(InputConfig(path=str(tmp_path / "a.jsonl"))).schema
    tags = pa.list_(pa.struct([("k", pa.int64())]))
    expected = [("a", pa.string()), ("n", pa.float64()), ("t", tags), ("b", pa.bool_()), ("z", pa.string())]
    assert schema == pa.schema(expected)


def test_the_most_frequent_type_wins_and_the_others_are_quarantined(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"x": "odd"}, {"x": 1}, {"x": 2}, {"x": True}, {"x": 1.5})
    inventory = build_inventory(InputConfig(path=str(file)))
    rows = list(InventoryReader(inventory).read(0, 5))
    assert inventory.schema.field("x").type == pa.float64()
    assert [row.row_id for row in rows if isinstance(row, RowError)] == [0, 3]
    assert isinstance(rows[0], RowError) and "column 'x' is double" in rows[0].message


def test_values_are_never_coerced(tmp_path: Path) -> None:
    """2**53 + 1 is no double: the row that holds it is quarantined, not rounded."""
    file = write(tmp_path, "a.jsonl", {"x": 1.5}, {"x": 2**53 + 1}, {"x": 2**53})
    rows = list(InventoryReader(build_inventory(InputConfig(path=str(file)))).read(0, 3))
    assert [type(row) for row in rows] == [SourceRow, RowError, SourceRow]


def test_every_row_has_every_column_in_order(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"a": 1, "b": 2}, {"b": 3})
    rows = list(InventoryReader(build_inventory(InputConfig(path=str(file)))).read(0, 2))
    assert [list(row.values.items()) for row in rows if isinstance(row, SourceRow)] == [
        [("a", 1), ("b", 2)],
        [("a", None), ("b", 3)],
    ]


def nested(num_levels: int) -> Any:
    value: Any = 1
    for _ in range(num_levels):
        value = [value]
    return value


def test_a_column_keeps_its_type_as_deep_as_parquet_can_be_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"x": nested(40)})
    schema = build_inventory(InputConfig(path=str(file))).schema
    assert pa.types.is_list(schema.field("x").type)
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    assert pq.read_schema(tmp_path / "x.parquet").names == ["x"]


@pytest.mark.parametrize(
    "values",
    [
        [{f"k{i}": i} for i in range(300)],
        [{"deep": [{"k": 1}]}, {"deep": [{"k": "x"}]}],
        [{"type": "string"}, {"type": ["string", "null"]}],
        [[1], {"a": 1}, "text", None],
        [nested(41), None],
    ],
)
def test_values_of_many_shapes_are_carried_as_json_text(values: list[Any], tmp_path: Path) -> None:
    values = values * 10
    file = write(tmp_path, "a.jsonl", *({"x": value, "y": 1} for value in values))
    inventory = Inventory.from_json(build_inventory(InputConfig(path=str(file))).to_json())
    rows = list(InventoryReader(inventory).read(0, len(values)))
    texts = [row.values["x"] for row in rows if isinstance(row, SourceRow)]
    assert inventory.schema.field("x").type == pa.string()
    assert [None if text is None else orjson.loads(str(text)) for text in texts] == values


def test_a_prompt_column_stays_text_where_most_prompts_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As JSON text every good prompt would reach the model, and the output, in quotes."""
    prompts = [[USER] if i % 10 == 9 else f'line "{i}"\nnext' for i in range(40)]
    file = write(tmp_path, "a.jsonl", *({"ask": prompt} for prompt in prompts))
    inventory = build_inventory(InputConfig(path=str(file), prompt_column="ask"))
    rows = list(InventoryReader(inventory).read(0, 40))
    good = {row.row_id: row.values["ask"] for row in rows if isinstance(row, SourceRow)}
    assert good == {i: prompt for i, prompt in enumerate(prompts) if isinstance(prompt, str)}
    assert {row.code for row in rows if isinstance(row, RowError)} == {"schema_mismatch"}
    assert "column 'ask' is string; 4 values are not" in caplog.text


def test_one_odd_row_does_not_change_the_type_of_a_nested_column(tmp_path: Path) -> None:
    rows = [{"x": {"k": 1}} for _ in range(200)]
    file = write(tmp_path, "a.jsonl", *rows, {"x": {"k": "odd"}})
    inventory = build_inventory(InputConfig(path=str(file)))
    assert inventory.schema.field("x").type == pa.struct([("k", pa.int64())])
    assert [row.row_id for row in InventoryReader(inventory).read(0, 201) if isinstance(row, RowError)] == [200]


def test_limit_counts_over_files_and_leaves_the_rest_unread(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", {"x": 1}, {"x": 2})
    write(tmp_path, "b.jsonl", {"x": 3}, {"y": 4})
    write(tmp_path, "c.jsonl", {"z": 5})
    inventory = build_inventory(InputConfig(path=str(tmp_path / "*.jsonl"), limit=3))
    assert [file.num_rows for file in inventory.files] == [2, 1, 0]
    assert inventory.schema.names == ["x"]
    assert len(list(InventoryReader(inventory).read(0, 99))) == 3


def test_parquet_takes_a_limit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": list(range(10))}), tmp_path / "a.parquet", row_group_size=4)
    inventory = build_inventory(InputConfig(path=str(tmp_path / "a.parquet"), limit=5))
    assert len(list(InventoryReader(inventory).read(0, 99))) == 5


def test_a_file_named_twice_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "a.jsonl", {"x": 1})
    inventory = build_inventory(InputConfig(path=[str(file), str(tmp_path / "*.jsonl")]))
    assert len(inventory.files) == 1 and "twice" in caplog.text


def test_touched_files_are_unchanged(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"x": 1})
    config = InputConfig(path=str(file))
    inventory = build_inventory(config)
    os.utime(file, (1, 1))
    assert compare_inventory(inventory, config).change is Change.UNCHANGED


@pytest.mark.parametrize(
    ("content", "difference"),
    [
        (b'{"x":2}\n', "same size but other content"),
        (b'{"x":1}\n{"x":2}\n', "has 16 bytes; it had 8"),
        (None, "is gone"),
    ],
)
def test_a_changed_file_is_named(content: bytes | None, difference: str, tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"x": 1})
    write(tmp_path, "b.jsonl", {"x": 1})
    config = InputConfig(path=str(tmp_path / "*.jsonl"))
    inventory = build_inventory(config)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    comparison = compare_inventory(inventory, config)
    assert comparison.change is Change.CHANGED
    assert len(comparison.differences) == 1
    assert str(file) in comparison.differences[0] and difference in comparison.differences[0]


def test_a_file_that_is_named_no_more_is_a_change(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", {"x": 1})
    other = write(tmp_path, "b.jsonl", {"x": 1})
    inventory = build_inventory(InputConfig(path=str(tmp_path / "*.jsonl")))
    comparison = compare_inventory(inventory, InputConfig(path=str(other)))
    assert "not named by input.path any more" in comparison.differences[0]


def test_new_files_come_after_the_old_ones_whatever_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", {"x": 1}, {"x": 2})
    config = InputConfig(path=str(tmp_path / "*.jsonl"))
    inventory = build_inventory(config)
    write(tmp_path, "a.jsonl", {"x": 3})
    comparison = compare_inventory(inventory, config)
    assert comparison.change is Change.EXTENDED
    extended = extend_inventory(inventory, comparison.new_files, config)
    assert [row.values["x"] for row in InventoryReader(extended).read(0, 3) if isinstance(row, SourceRow)] == [1, 2, 3]
    assert compare_inventory(extended, config).change is Change.UNCHANGED


def test_new_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", {"x": 1})
    config = InputConfig(path=str(tmp_path / "*.jsonl"))
    inventory = build_inventory(config)
    for row, message in (
        ({"y": 1}, "'y' of the new files is int64 but does not exist"),
        ({"x": "s"}, "'x' .* is int64"),
    ):
        new = write(tmp_path, "c.jsonl", row)
        with pytest.raises(ConfigError, match=message):
            extend_inventory(inventory, [str(new)], config)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", *({"x": i} for i in range(20_000)))
    calls: list[tuple[int, int, int]] = []
    build_inventory(InputConfig(path=str(file)), progress=lambda *call: calls.append(call))
    size = file.stat().st_size
    assert len(calls) > 2 and calls[-1] == (20_000, size, size)


def test_a_file_that_shrank_while_the_job_runs_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a.jsonl", {"x": 1}, {"x": 2})
    reader = InventoryReader(build_inventory(InputConfig(path=str(file))))
    file.write_bytes(b'{"x":1}\n')
    with pytest.raises(ConfigError, match="ends at row 1"):
        list(reader.read(0, 2))


def test_marks_stay_bounded_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MAX_MARKS", 8)
    kept = marks.Marks()
    for row in range(1000):
        kept.offer(row, row * 10, row + 1)
    assert len(kept.kept) <= 8 and kept.kept[0] == [0, 0, 1]
    steps = {after[0] - before[0] for before, after in zip(kept.kept, kept.kept[1:], strict=False)}
    assert len(steps) == 1
    assert marks.nearest(kept.kept, 999)[0] == kept.kept[-1][0]
    assert marks.nearest([], 5) == (0, 0, 1)
