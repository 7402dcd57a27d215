"""The column of log probabilities: when it is there, and that it holds what the engine gives."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from runner.errors import ConfigError
from runner.output import may_ask_logprobs, plan_columns
from runner.output.convert import Misfit, to_array
from runner.types import Logprobs

FIELD = plan_columns(pa.schema([]), logprobs=True).data.field("logprobs")


def test_the_column_is_there_only_where_asked_for() -> None:
    assert "logprobs" not in plan_columns(pa.schema([])).names
    columns = plan_columns(pa.schema([("topic", pa.string())]), parsed={"title": "string"}, prefix="a_", logprobs=True)
    assert columns.data.names[-2:] == ["a_logprobs", "a_title"]
    with pytest.raises(ConfigError, match="column_prefix"):
        plan_columns(pa.schema([("logprobs", pa.string())]), logprobs=True)


@pytest.mark.parametrize(
    ("kind", "may"),
    [
        (pa.struct([("max_tokens", pa.int64())]), False),
        (pa.struct([("logprobs", pa.int64())]), True),
        (pa.struct([("top_logprobs", pa.int64())]), True),
        (pa.string(), True),
    ],
)
def test_a_row_may_ask_where_its_options_have_room(kind: pa.DataType, may: bool) -> None:
    source = pa.schema([("prompt", pa.string()), ("sampling_params", kind)])
    assert may_ask_logprobs(source, ("sampling_params", "body")) is may
    assert not may_ask_logprobs(source, ("body",))


def test_it_holds_the_entries_of_a_sample_and_refuses_others() -> None:
    packed = pa.array([-0.1, -0.1, -math.inf], pa.float32())
    words = packed.buffers()[1].to_pybytes()[:12]
    words = words[:4] + (7).to_bytes(4, "little") + words[4:8] + (-1).to_bytes(4, "little", signed=True) + words[8:]
    (entry,) = Logprobs(2, words).entries([7, 8])
    array = to_array([[entry], None, []], FIELD)
    assert array.to_pylist() == [[entry], None, []]
    assert [one["token_id"] for one in entry["top"]] == [7]
    with pytest.raises(Misfit):
        to_array([[{**entry, "text": "x"}]], FIELD)
