"""The schema of the output, and the strictness of what goes into it."""

from __future__ import annotations

from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_job import record_of, run_job, tiny_spec

from runner.errors import ConfigError
from runner.output import Output, plan_columns
from runner.output.columns import arrow_type
from runner.output.convert import Misfit, to_array, to_batch
from runner.output.entries import decode, encode
from runner.types import RowError, RowResult, SourceRow, Stage


def test_source_columns_come_first_then_ours_then_the_jobs():
    columns = plan_columns(pa.schema([("topic", pa.string())]), parsed={"title": "string", "tags": "list<string>"})
    assert columns.data.names == [
        "topic",
        "row_id",
        "request_index",
        "sample_index",
        "prompt",
        "completion",
        "finish_reason",
        "stop_reason",
        "prompt_tokens",
        "completion_tokens",
        "seed",
        "model",
        "title",
        "tags",
    ]
    assert columns.data.field("seed").type == pa.int64() and columns.data.field("tags").type == pa.list_(pa.string())
    with_messages = plan_columns(pa.schema([]), keep_prompt="messages", reasoning=True)
    assert with_messages.data.names[3:6] == ["messages", "completion", "reasoning"]
    assert "prompt" not in plan_columns(pa.schema([]), keep_prompt="none").names


def test_a_clash_is_refused_and_a_prefix_helps():
    source = pa.schema([("completion", pa.string()), ("row_id", pa.int64())])
    with pytest.raises(ConfigError, match=r"output\.column_prefix.*'completion'"):
        plan_columns(source)
    columns = plan_columns(source, prefix="gen_")
    assert columns.names["row_id"] == "gen_row_id" and columns.key == (
        "gen_row_id",
        "gen_request_index",
        "gen_sample_index",
    )
    with pytest.raises(ConfigError, match="also a column that the runner adds"):
        plan_columns(pa.schema([]), parsed={"seed": "int64"})


def test_a_prompt_column_of_the_source_stays_as_it_is():
    columns = plan_columns(pa.schema([("prompt", pa.large_string())]))
    assert columns.data.field("prompt").type == pa.large_string() and "prompt" not in columns.names


def test_error_columns_step_aside_for_the_sources():
    columns = plan_columns(pa.schema([("code", pa.int64()), ("message", pa.string())]))
    assert columns.error_names["code"] == "error_code" and columns.errors.field("code").type == pa.int64()
    with pytest.raises(ConfigError, match="'code' and 'error_code'"):
        plan_columns(pa.schema([("code", pa.int64()), ("error_code", pa.int64())]))


@pytest.mark.parametrize(
    "text", ["string", "int64", "list<struct<a: int64, b: list<string>>>", "struct<a: struct<b: double>, c: bool>"]
)
def test_type_names(text):
    assert str(arrow_type("x", text)).replace("item: ", "") == text


def test_an_unknown_type_is_refused():
    with pytest.raises(ConfigError, match="title: 'text' is no Arrow type"):
        arrow_type("title", "text")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, pa.int64()),
        (1.0, pa.int64()),
        (np.float64(2.0), pa.int32()),
        (True, pa.int64()),
        (1, pa.string()),
        ("abc", pa.list_(pa.string())),
        ({"a": 1, "b": 2}, pa.struct([("a", pa.int64())])),
        ([{"a": 1.5}], pa.list_(pa.struct([("a", pa.int64())]))),
        ([[1, 2.5]], pa.list_(pa.list_(pa.int64()))),
        (2**40, pa.int32()),
        (2**63, pa.int64()),
        ("\ud800", pa.string()),
        ("x", pa.null()),
    ],
)
def test_nothing_is_cut_or_dropped_in_silence(value, kind):
    with pytest.raises(Misfit, match="'x"):
        to_array([None, value], pa.field("x", kind))


def test_what_fits_goes_through():
    for value, kind in [(np.int64(3), pa.int64()), (3, pa.float64()), ({"a": None}, pa.struct([("a", pa.int64())]))]:
        assert to_array([value, None], pa.field("x", kind)).to_pylist() == [value, None]
    with pytest.raises(Misfit, match="'typo'"):
        to_batch([{"a": 1, "typo": 2}], pa.schema([("a", pa.int64())]))


def test_a_record_that_does_not_fit_becomes_an_error_and_takes_no_other_along(tmp_path):
    spec = tiny_spec(num_rows=3)
    bad = record_of(1, 1)
    bad["title"], bad["topic"] = 7, "\ud800"
    with Output.open(tmp_path / "out", spec) as output:
        output.take_range()
        output.write(RowResult(0, [record_of(0, 0)]))
        output.write(RowResult(1, [record_of(1, 0), bad], row=SourceRow(1, {}, "rows.jsonl", 2)))
        output.write(RowResult(2, errors=[RowError(2, Stage.READ, "utf8", "bad \ud800", raw="\udfff", file="f")]))
        summary = output.finish()
    assert summary.totals.samples == 2 and summary.totals.errors == {"schema": 1, "utf8": 1}
    errors = pyarrow.dataset.dataset(tmp_path / "out/errors", format="ipc").to_table().to_pylist()
    assert (errors[0]["row_id"], errors[0]["request_index"], errors[0]["sample_index"]) == (1, 0, 1)
    assert (errors[0]["file"], errors[0]["line"]) == ("rows.jsonl", 2)
    assert "title" in errors[0]["message"] or "topic" in errors[0]["message"]
    assert errors[1]["message"] == "bad \\ud800" and errors[1]["raw"] == "\\udfff"


def test_source_types_that_loaders_cannot_read_are_stored_as_ones_they_can(tmp_path):
    source = pa.schema(
        [
            pa.field("m", pa.map_(pa.string(), pa.int64())),
            pa.field("d", pa.dictionary(pa.int32(), pa.string()), nullable=False, metadata={"PARQUET:field_id": "1"}),
            pa.field("n", pa.null()),
            pa.field("s", pa.struct([("l", pa.list_(pa.uint64()))])),
        ],
        metadata={"huggingface": "{}"},
    )
    columns = plan_columns(source, keep_prompt="none")
    assert columns.data.metadata is None and columns.data.field("d").nullable
    values = {"m": [("k", 1)], "d": "x", "n": None, "s": {"l": [2**64 - 1]}}
    ours = {name: value for name, value in record_of(0, 0).items() if name in columns.names}
    spec = tiny_spec(columns=columns, num_rows=2)
    with Output.open(tmp_path / "out", spec) as output:
        output.take_range()
        output.write(RowResult(0, [{**values, **ours}]))
        output.write(RowResult(1, errors=[RowError(1, Stage.RENDER, "c", "m", source=values)]))
        output.finish()
    for config in ("default", "errors"):
        rows = datasets.load_dataset(str(tmp_path / "out"), config, split="train", cache_dir=str(tmp_path / "cache"))
        assert rows[0]["m"] == [{"key": "k", "value": 1}] and rows[0]["s"] == {"l": [2**64 - 1]}
    with pytest.raises(ConfigError, match="union"):
        plan_columns(pa.schema([("u", pa.union([pa.field("a", pa.int64())], "sparse"))]))


texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
turns = st.none() | st.lists(st.fixed_dictionaries({"role": texts, "weight": st.none() | st.floats()}), max_size=3)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(texts, turns, st.integers(0, 3)), min_size=1, max_size=24), data=st.data())
def test_whatever_the_values_the_bytes_hang_on_them_alone(tmp_path_factory, rows, data):
    base = tmp_path_factory.mktemp("property")

    def result(row_id):
        topic, talk, num_samples = rows[row_id]
        records = [{**record_of(row_id, i), "topic": topic, "turns": talk} for i in range(num_samples)]
        return RowResult(row_id, records, dropped=3 - num_samples)

    spec = tiny_spec(num_rows=len(rows))
    for name in ("a", "b"):
        order = data.draw(st.permutations(range(len(rows))), label=name)
        with Output.open(base / name, spec) as output:
            while output.take_range():
                pass
            for number, row_id in enumerate(order):
                output.write(result(row_id))
                if number % 5 == 4:
                    output.flush()
            output.finish()
    parts = {path.name: path.read_bytes() for path in (base / "a/data").iterdir()}
    assert parts == {path.name: path.read_bytes() for path in (base / "b/data").iterdir()}


def test_entries_come_back_as_they_went(tmp_path):
    spec = tiny_spec()
    results = [RowResult(9, [record_of(9, 0)]), RowResult(2, dropped=4), RowResult(8, [record_of(8, 1)])]
    found = decode(encode(results, spec.columns), spec.columns, 8)
    assert {index: entries.row_ids for index, entries in found.items()} == {0: [2], 1: [8, 9]}
    assert found[0].dropped == 4 and found[1].data.column("seed").to_pylist() == [249, 279]


def test_the_default_job_has_all_that_is_needed_to_load(tmp_path):
    run_job(tmp_path / "out", replace(tiny_spec(), columns=tiny_spec().columns))
    table = pyarrow.dataset.dataset(tmp_path / "out/data", format="ipc").to_table()
    assert table.schema.equals(tiny_spec().columns.data)
