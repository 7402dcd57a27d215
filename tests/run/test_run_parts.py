"""The stand-in engine, the fingerprint, what is kept of a prompt, and an input that grows."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from commands import echo, everything, write_rows
from hypothesis import given
from hypothesis import strategies as st

from jobs import load_job
from runner.cli.compose import compose
from runner.config import settings
from runner.echo import EchoEngine, EchoTokenizer
from runner.input import Inventory
from runner.run.backends import choose_backend
from runner.run.fingerprint import fingerprint
from runner.run.plan import Plan
from runner.text import resolve_sampling
from runner.types import EngineRequest, FinishReason, SamplingParams

NO_ROWS = Inventory((), pa.schema([]))
BY_CONTENT = {"input.path", "input.format", "job.module", "job.template_file"}


@given(
    prompt=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4),
    max_tokens=st.integers(1, 60),
    ignore_eos=st.booleans(),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_the_stand_in_keeps_an_engines_promises(
    prompt: list[int], seeds: list[int], max_tokens: int, ignore_eos: bool, temperature: float
) -> None:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos, temperature=temperature, n=len(seeds))
    request = EngineRequest(3, prompt, params, tuple(seeds), tuple(range(len(seeds))))
    engines = EchoEngine(), EchoEngine()
    for engine in engines:
        engine.submit([request])
    samples = engines[0].poll(0)
    assert samples == engines[1].poll(0)
    assert [(sample.request_id, sample.sample_index) for sample in samples] == [(3, i) for i in range(len(seeds))]
    for sample in samples:
        assert 1 <= len(sample.token_ids) <= max_tokens
        assert (sample.finish_reason is FinishReason.LENGTH) >= ignore_eos
        assert not ignore_eos or len(sample.token_ids) == max_tokens
        assert temperature or sample.token_ids[: len(prompt)] == prompt[:max_tokens]
    assert engines[0].poll(0) == []
    assert engines[0].stats().completion_tokens == sum(len(sample.token_ids) for sample in samples)


def test_an_aborted_request_gives_nothing() -> None:
    engine = EchoEngine()
    engine.submit([EngineRequest(i, [1], SamplingParams(), (0,)) for i in range(3)])
    engine.abort([(1, 0)])
    assert [sample.request_id for sample in engine.poll(0)] == [0, 2]


@given(st.text(max_size=50).filter(lambda text: text.isprintable()))
def test_bytes_are_the_text(text: str) -> None:
    tokenizer = EchoTokenizer()
    assert tokenizer.decode(tokenizer.encode(text, special=False)) == text


def print_of(*arguments: str) -> dict[str, Any]:
    config = compose(["job=generate", "engine=echo", "input.path=rows.jsonl", *arguments])
    sampling = resolve_sampling(config.sampling, {})
    return fingerprint(config, choose_backend(config), load_job(config.job, config.input), sampling, NO_ROWS)


def test_every_output_affecting_setting_is_in_the_fingerprint_and_no_runtime_one() -> None:
    config = compose(["job=generate", "engine=echo", "input.path=rows.jsonl"])
    found = print_of().keys()
    assert {key for key, _ in settings(config, "output")} - BY_CONTENT <= found
    assert not {key for key, _ in settings(config, "runtime")} & found
    assert found >= {"job.code", "model.identity", "job.template", "input.files"}


def test_the_fingerprint_holds_what_is_in_effect() -> None:
    assert print_of("sampling.temperature=1.0") == print_of()
    assert print_of("sampling.temperature=0.5") != print_of()
    assert print_of("engine.max_num_seqs=3", "output.dir=x") == print_of()


def test_the_settings_of_the_output_reach_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n')
    config = compose(["job=generate", "engine=echo", f"input.path={tmp_path}/rows.jsonl", f"output.dir={tmp_path}/out"])
    for name, value in vars(config.output).items():
        if type(value) in (int, float):
            setattr(config.output, name, value + 1)
    spec = Plan(config, choose_backend(config)).output_spec()
    shared = {item.name for item in fields(spec)} & vars(config.output).keys()
    assert shared >= {"rows_per_shard", "sync_seconds", "lease_seconds"}
    assert {name: getattr(spec, name) for name in shared} == {name: getattr(config.output, name) for name in shared}


@pytest.mark.parametrize(
    ("rows_per_shard", "samples", "ranges"), [(1000, 1, 17), (10_000, 1, 8), (16, 1, 1024), (16, 4, 256)]
)
def test_small_ranges_never_leave_the_engine_short_of_rows(
    tmp_path: Path, rows_per_shard: int, samples: int, ranges: int
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hi"}\n')
    config = compose(
        [
            "job=generate",
            "engine=echo",
            f"input.path={tmp_path / 'rows.jsonl'}",
            f"output.dir={tmp_path / 'out'}",
            f"output.rows_per_shard={rows_per_shard}",
            f"sampling.n={samples}",
            "engine.max_num_seqs=1024",
        ]
    )
    assert Plan(config, choose_backend(config)).output_spec().max_open_ranges == ranges


def test_a_job_file_counts_by_its_content(tmp_path: Path) -> None:
    source = "def prompt(row):\n    return 'x'\n"
    paths = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    for path, text in zip(paths, (source, source, source + "# edited\n"), strict=True):
        path.write_text(text)
    first, moved, edited = (print_of(f"job.module={path}") for path in paths)
    assert first == moved
    assert first["job.code"] != edited["job.code"]


def test_a_template_file_counts_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("a {{ prompt }}")
    first = print_of(f"job.template_file={path}")
    path.write_text("b {{ prompt }}")
    assert first["job.template"] != print_of(f"job.template_file={path}")["job.template"]


def test_examples_count_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"q": 1}')
    arguments = ("job.template='{{ examples }}'", f"job.few_shot_file={path}")
    first = print_of(*arguments)
    path.write_text('{"q": 2}')
    assert first["job.few_shot_file"] != print_of(*arguments)["job.few_shot_file"]


def test_a_generation_config_fills_in_what_is_not_set() -> None:
    config = compose(["job=generate", "engine=echo", "input.path=rows.jsonl", "sampling.top_p=0.5"])
    sampling = resolve_sampling(config.sampling, {"temperature": 0.3, "top_p": 0.9})
    backend = replace(choose_backend(config), identity="other")
    found = fingerprint(config, backend, load_job(config.job, config.input), sampling, NO_ROWS)
    assert (found["sampling.temperature"], found["sampling.top_p"]) == (0.3, 0.5)
    assert found["model.identity"] == "other"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pads.dataset(folder / "outputs" / "generate" / "data", format="ipc").to_table().to_pylist()


@pytest.mark.parametrize("kept", ["none", "prompt", "messages"])
def test_what_is_kept_of_the_prompt(tmp_path: Path, kept: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Why?"}) + "\n")
    code, _, err = echo(
        tmp_path, "input.prompt_column=question", f"output.keep_prompt={kept}", "sampling.temperature=0"
    )
    assert code == 0, err
    (row,) = rows_of(tmp_path)
    answer = "user: Why?\nassistant:"
    assert row["completion"] == answer
    assert row.get("prompt") == (answer if kept == "prompt" else None)
    conversation = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
    assert row.get("messages") == (conversation if kept == "messages" else None)


def test_a_prefix_makes_one_runs_output_the_next_runs_input(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    assert echo(tmp_path, "output.column_prefix=one_", "output.rows_per_shard=2")[0] == 0
    first = rows_of(tmp_path)
    assert [row["one_row_id"] for row in first] == [0, 1, 2]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    code, _, err = echo(tmp_path, "job.name=second", "input.prompt_column=one_completion")
    assert code == 0, err


def test_new_files_come_after_the_old_ones_whatever_their_names(tmp_path: Path) -> None:
    arguments = ("input.path='part-*.jsonl'", "output.rows_per_shard=2")
    (tmp_path / "part-b.jsonl").write_text('{"prompt": "b0"}\n{"prompt": "b1"}\n{"prompt": "b2"}\n')
    assert echo(tmp_path, *arguments)[0] == 0
    (tmp_path / "part-a.jsonl").write_text('{"prompt": "a0"}\n')
    code, _, err = echo(tmp_path, *arguments)
    assert code == 0, err
    assert [row["prompt"] for row in rows_of(tmp_path)] == ["b0", "b1", "b2", "a0"]
    before = everything(tmp_path / "outputs")
    assert echo(tmp_path, *arguments)[0] == 0
    assert everything(tmp_path / "outputs") == before


def test_a_job_that_splits_rows_numbers_its_requests(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    (tmp_path / "split.py").write_text("def prompt(row):\n    return ['a', 'b', 'c'] if row['n'] else None\n")
    code, _, err = echo(tmp_path, "job.module=split.py", "sampling.n=2")
    assert code == 0, err
    keys = [(row["row_id"], row["request_index"], row["sample_index"]) for row in rows_of(tmp_path)]
    assert keys == [(1, request, sample) for request in range(3) for sample in range(2)]
    assert "dropped 2 samples" in err
