"""Log probabilities and bad words from the settings to the parts: asked for by the job, by a row, and after a kill."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from commands import command, digests, run_here, start
from tiny_models import save_tiny_model

from runner.export import export

RUN = ("job=generate", "input.path=rows.jsonl", "model.path=model", "model.device=cpu", "output.rows_per_shard=4")
SAMPLING = (
    "sampling.max_tokens=60",
    "sampling.temperature=0.9",
    "sampling.ignore_eos=true",
    "sampling.logprobs=2",
    "engine.max_num_seqs=3",
    "engine.deterministic=true",  # log probabilities show the last bits of the arithmetic
)
OWN = {3: {"logprobs": 0}, 5: {"stop": list("aeiou 0123456789")}, 7: {"n": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 16 rows, and an uninterrupted run over them in ``whole``."""
    folder = tmp_path_factory.mktemp("logprobs")
    save_tiny_model(folder / "model")
    rows = [{"prompt": f"question {i}", "sampling_params": OWN.get(i)} for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert run_here(folder, *RUN, *SAMPLING, "output.dir=whole") == 0
    return folder


def table_of(folder: Path) -> pa.Table:
    return pads.dataset(folder / "data", format="ipc").to_table()


def check_entry(entry: dict[str, Any], num_top: int) -> None:
    values = [one["logprob"] for one in entry["top"]]
    assert len(values) == num_top
    assert values == sorted(values, reverse=True)
    assert all(value <= 0 for value in [*values, entry["logprob"]])
    for one in entry["top"]:
        assert one["token_id"] != entry["token_id"] or one["logprob"] == entry["logprob"]
    assert all(value >= entry["logprob"] for value in values[:1])


def test_every_token_of_every_sample_has_its_entry(folder: Path) -> None:
    rows = table_of(folder / "whole").to_pylist()
    assert len(rows) == 17
    for row in rows:
        assert len(row["logprobs"]) == row["completion_tokens"]
        for entry in row["logprobs"]:
            check_entry(entry, 0 if row["row_id"] == 3 else 2)
    stopped = rows[5]
    assert stopped["finish_reason"] == "stop"
    assert len(stopped["logprobs"]) < 60


def test_a_killed_run_goes_on_to_the_same_bytes(folder: Path) -> None:
    arguments = (*RUN, *SAMPLING, "output.dir=killed", "output.sync_seconds=0.1")
    process = start(folder, *arguments)
    journals, deadline = folder / "killed" / ".runner" / "journals", time.monotonic() + 120
    while not any(path.stat().st_size > 3000 for path in journals.glob("*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    code, _, err = command(folder, *arguments)
    assert code == 0, err
    assert digests(folder / "killed") == digests(folder / "whole")


def test_exports_hold_the_column_as_it_is(folder: Path) -> None:
    table = table_of(folder / "whole")
    parquet = export(folder / "whole", "parquet", folder / "whole.parquet")
    assert pq.read_table(parquet.path)["logprobs"].to_pylist() == table["logprobs"].to_pylist()
    lines = export(folder / "whole", "jsonl", folder / "whole.jsonl").path.read_text().splitlines()
    found = [json.loads(line)["logprobs"] for line in lines]
    assert found == table["logprobs"].to_pylist()


def test_bad_words_never_show_in_an_answer(folder: Path) -> None:
    """Pieces of the answers of a run are kept out of the next one."""
    words = [row["completion"][8:11] for row in table_of(folder / "whole").to_pylist()]
    words = sorted({word for word in words if word.isascii() and word.isprintable() and len(word.strip()) > 1})[:40]
    assert words
    asked = f"sampling.bad_words={json.dumps(words)}"
    assert run_here(folder, *RUN, *SAMPLING, asked, "output.dir=clean") == 0
    rows = table_of(folder / "clean").to_pylist()
    assert not [word for word in words for row in rows if word in row["completion"]]
