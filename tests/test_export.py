"""Export: the data of a run as one file, whole or not at all, and never a damaged row."""

from __future__ import annotations

import base64
import datetime
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from runner.errors import ConfigError, DamageError, ExitCode, StorageError
from runner.export import JsonlWriter, export, main

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"prompt": f"p{i} \u2028\n", "deep": {"a": [{"x": i, "y": None}], "b": None}, "tags": ["t"] * (i % 3)}
    for i in range(50)
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with nested columns, seven parts and one bad row."""
    folder = tmp_path_factory.mktemp("export")
    lines = [json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join([*lines, "{bad"]) + "\n")
    arguments = ["job=generate", "engine=echo", "input.path=rows.jsonl", "output.rows_per_shard=8"]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments, "output.dir=facts"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "facts"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "facts"))


def data_of(out: Path) -> list[dict[str, Any]]:
    return pads.dataset(sorted((out / "data").iterdir()), format="ipc").to_table().to_pylist()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parquet_holds_every_row_and_column(out: Path) -> None:
    done = export(out, "parquet")
    table = pq.read_table(done.path)
    assert (done.path, done.num_rows) == (out.parent / "facts.parquet", 50)
    assert table.schema.equals(pads.dataset(out / "data", format="ipc").schema)
    assert table.to_pylist() == data_of(out)
    assert table["deep"].to_pylist() == [row["deep"] for row in ROWS]
    assert done.left_out == ("1 rows have errors; they stay in errors/",)
    assert files(out.parent) == ["facts", "facts.parquet"]


def test_jsonl_holds_every_row_and_column(out: Path, tmp_path: Path) -> None:
    done = export(out, "jsonl", tmp_path / "x.jsonl")
    lines = done.path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == data_of(out)


def test_a_folder_takes_the_file_under_the_runs_name(out: Path, tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    assert export(out, "jsonl", tmp_path / "exports").path == tmp_path / "exports" / "facts.jsonl"


def test_what_json_has_no_type_for(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2, 3, 4)
    table = pa.table({"b": [b"\xff"], "t": [day], "f": [float("nan")], "d": pa.array([1], pa.duration("s"))})
    writer = JsonlWriter(tmp_path / "x", table.schema)
    writer.write_table(table)
    writer.close()
    found = json.loads((tmp_path / "x").read_text())
    assert base64.b64decode(found["b"]) == b"\xff"
    assert (found["t"], found["f"], found["d"]) == ("2026-01-02T03:04:00", None, "0:00:01")


def flip(out: Path) -> None:
    path = out / "data" / "part-00003.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda out: (out / "data" / "part-00003.arrow").unlink(),
        lambda out: shutil.copy(out / "data" / "part-00001.arrow", out / "data" / "part-00003.arrow"),
        lambda out: (out / ".runner" / "commits" / "part-00003.g1.json").unlink(),
        lambda out: (out / ".runner" / "commits" / "part-00003.g1.json").write_text("{}"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_damage_is_refused_and_leaves_no_file(out: Path, damage: Callable[[Path], Any], kind: str) -> None:
    damage(out)
    with pytest.raises(DamageError, match=r"runner\.repair"):
        export(out, kind)
    assert files(out.parent) == ["facts"]


def test_a_run_that_is_not_done_says_what_is_left(out: Path) -> None:
    (out / "_SUCCESS").unlink()
    (out / ".runner" / "commits" / "part-00003.g1.json").unlink()
    (out / "data" / "part-00003.arrow").unlink()
    done = export(out, "parquet")
    assert done.num_rows == 42
    assert done.left_out[0] == "1 of 7 ranges are not done; run the job to go on"


def test_an_active_run_is_refused(out: Path) -> None:
    lock = next((out / ".runner" / "locks").glob("*-of-*.lock"))
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, 2); print(1, flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert main([str(out), "--to", "jsonl"]) == ExitCode.LOCKED
    finally:
        holder.communicate()
    assert main([str(out), "--to", "jsonl"]) == ExitCode.DONE


def test_an_existing_file_and_the_output_folder_are_left_alone(out: Path, tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text("mine")
    for target in (None, out / "data" / "x.jsonl", out, tmp_path / "none" / "x.jsonl"):
        with pytest.raises(ConfigError, match="--out="):
            export(out, "jsonl", target)
    assert (tmp_path / "facts.jsonl").read_text() == "mine"


def test_a_full_disk_leaves_no_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, table: pa.Table) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonlWriter, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        export(out, "jsonl")
    assert files(out.parent) == ["facts"]


@pytest.mark.parametrize(
    "arguments", [["DIR"], ["DIR", "--to", "csv"], ["DIR", "--to", "jsonl", "more"], ["/none", "--to", "jsonl"]]
)
def test_wrong_arguments_are_one_line_and_64(
    out: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(out) if argument == "DIR" else argument for argument in arguments]) == ExitCode.REFUSED


def test_what_a_killed_export_left_is_swept_and_that_of_a_live_one_is_not(out: Path) -> None:
    left, live, other = (
        out.parent / name for name in (".facts.jsonl.1.tmp", ".facts.jsonl.2.tmp", ".other.jsonl.3.tmp")
    )
    for path in (left, live, other):
        path.write_bytes(b"half")
    with live.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert export(out, "jsonl").path == out.parent / "facts.jsonl"
    assert files(out.parent) == [".facts.jsonl.2.tmp", ".other.jsonl.3.tmp", "facts", "facts.jsonl"]
