"""A tiny deterministic job: what each row comes to depends on its id alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from runner.output import Output, OutputSpec, Summary, plan_columns
from runner.output.rerun import SampleKeys
from runner.types import RowError, RowResult, Stage

SOURCE = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("never", pa.null()),
        pa.field("turns", pa.list_(pa.struct([("role", pa.string()), ("weight", pa.float64())]))),
    ]
)


def source_of(row_id: int) -> dict[str, Any]:
    turns = None if row_id % 4 == 0 else [{"role": "user", "weight": row_id / 2}] * (row_id % 3)
    return {"topic": f"topic {row_id}", "never": None, "turns": turns}


def result_of(row_id: int, num_samples: int = 2) -> RowResult:
    """Every 7th row fails as a whole, every 11th is dropped, of every 5th one sample fails."""
    if row_id % 11 == 10:
        return RowResult(row_id, dropped=num_samples)
    if row_id % 7 == 3:
        error = RowError(row_id, Stage.RENDER, "template", "it failed", source=source_of(row_id), num_samples=2)
        return RowResult(row_id, errors=[error])
    records = [record_of(row_id, sample) for sample in range(num_samples)]
    if row_id % 5 == 2:
        error = RowError(row_id, Stage.PARSE, "no_title", "no title", request_index=0, sample_index=1)
        return RowResult(row_id, records[:1], [error])
    return RowResult(row_id, records)


def record_of(row_id: int, sample_index: int) -> dict[str, Any]:
    return {
        **source_of(row_id),
        "row_id": row_id,
        "request_index": 0,
        "sample_index": sample_index,
        "prompt": f"about {row_id}",
        "completion": f"answer {sample_index} " * (1 + row_id % 3),
        "finish_reason": "length" if row_id % 6 == 4 and sample_index == 0 else "stop",
        "stop_reason": None,
        "prompt_tokens": 3,
        "completion_tokens": 5 + row_id % 3,
        "seed": row_id * 31 + sample_index,
        "model": "echo",
        "title": None if row_id % 2 else "a title",
    }


def redone_of(row_id: int, wanted: SampleKeys) -> RowResult:
    """The wanted samples of a row, done again: they went on for longer, and of every 12th row still not to the end."""
    samples = {index for _, key in wanted for index in ((0, 1) if key is None else (key,))}
    reason = "length" if row_id % 12 == 4 else "stop"
    records = [{**record_of(row_id, i), "completion": "longer", "finish_reason": reason} for i in sorted(samples)]
    return RowResult(row_id, records)


def tiny_spec(**changes: Any) -> OutputSpec:
    spec = OutputSpec(
        job_name="tiny",
        columns=plan_columns(SOURCE, parsed={"title": "string"}),
        num_rows=50,
        rows_per_shard=8,
        fingerprint={"sampling.temperature": 0.7, "job.code": "abc", "input.limit": None},
        lock_seconds=0.0,
    )
    return replace(spec, **changes)


def run_job(path: Any, spec: OutputSpec, order: Callable[[list[int]], Iterable[int]] = list, **changes: Any) -> Summary:
    """Runs a job to its end; ``order`` says in which order the open rows finish."""
    with Output.open(path, replace(spec, **changes)) as output:
        while output.ranges_left:
            rows: list[int] = []
            redo: dict[int, SampleKeys] = {}
            while (item := output.take_range()) is not None:
                rows += [row for row in range(item.start, item.stop) if row not in item.done]
                redo |= item.redo
            for row_id in order(rows):
                output.write(redone_of(row_id, redo[row_id]) if row_id in redo else result_of(row_id))
        return output.finish()
