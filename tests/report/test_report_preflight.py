"""The preflight: what it finds in the input, and its estimates against figures that are known."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.entry import main
from runner.config import EngineConfig
from runner.errors import ConfigError
from runner.preflight import _USAGE, preflight, stretches
from runner.report.cards import CARDS, Card, card_of, model_shape
from runner.report.metrics import METRICS, MetricsLog, last_measured, read_metrics
from runner.report.roofline import Load, fit, seconds_at_limit
from runner.report.survey import PromptSurvey, bins, quantile

LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
MEASURED_H100 = Card("an H100 as measured", 80e9, 3.02e12, 803e12)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments, _USAGE, preflight)
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shared = "the same long beginning of every prompt, over and over "
    lines = [json.dumps({"prompt": f"{shared}{i % 40}"}) for i in range(50)]
    lines += ["not json", json.dumps({"prompt": None}), json.dumps({"prompt": "x" * 5000})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


ARGUMENTS = ["job=generate", "engine=echo", "input.path=rows.jsonl", "engine.max_model_len=2000"]


def test_it_counts_what_is_in_the_input_and_makes_no_folder(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(ARGUMENTS, capsys)
    assert (code, err) == (0, "")
    for part in (
        "53 rows in 1 file (all read)",
        "3 bad (5.7%)",
        "prompt_null 1",
        "duplicates of an earlier prompt: 10",
    ):
        assert part in out
    assert "too long: 1" in out
    assert "Prompts: 50" in out
    assert [path.name for path in rows.iterdir()] == ["rows.jsonl"]


def test_rows_that_the_job_drops_are_counted(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rows / "job.py").write_text("def prompt(row):\n    return None if str(row['prompt']).endswith('3') else 'x'\n")
    assert "5 rows are dropped by the job" in run([*ARGUMENTS, "job.module=job.py"], capsys)[1]


def test_a_sample_says_that_it_is_one(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "53 rows in 1 file (20 of them read, spread evenly)" in run([*ARGUMENTS, "preflight.rows=20"], capsys)[1]


def test_an_unknown_card_is_refused(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run([*ARGUMENTS, "cost.card=h1000"], capsys)
    assert code == 64
    assert "cost.card=h1000" in err
    with pytest.raises(ConfigError):
        card_of("")


def earlier_run(rows: Path, device: str) -> None:
    (rows / "earlier" / ".runner").mkdir(parents=True)
    log = MetricsLog(rows / "earlier", "r1")
    log.append({"kind": "start", "time": 0.0, "model": "m"})
    line = {"kind": "end", "time": 9.0, "samples": 10, "finished_tokens": 200, "generating_seconds": 4.0}
    log.append({**line, "engine": {"device": device}})
    log.append({**line, "time": 10.0, "finished_tokens": 0})  # all that ended so far failed at once: no speed


def test_an_earlier_run_gives_lengths_speed_and_cost(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier_run(rows, "NVIDIA L4")
    arguments = [*ARGUMENTS, "preflight.measured=earlier", "cost.dollars_per_gpu_hour=3600"]
    out = run(arguments, capsys)[1]
    assert "an earlier run had 20 on average" in out
    # 53 rows x 50/53 that give an answer x 20 tokens / 50 a second = 20 s, 30 % either way
    speed = "(50 tokens a second with m on NVIDIA L4)"
    assert f"{speed}: about 20 s (14 s to 26 s), about $20.00 ($14.00 to $26.00)" in out


def test_an_earlier_run_on_a_cpu_is_named_and_costs_no_dollars(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier_run(rows, "")
    out = run([*ARGUMENTS, "preflight.measured=earlier", "cost.dollars_per_gpu_hour=3600"], capsys)[1]
    assert "(50 tokens a second with m on a CPU): about 20 s (14 s to 26 s)\n" in f"{out}\n"


@pytest.mark.parametrize(("card", "title", "is_priced"), [("cpu", "2 CPU cores", False), ("l4", "1 x L4 24GB", True)])
def test_the_hours_of_a_cpu_cost_no_dollars(
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    card: str,
    title: str,
    is_priced: bool,
) -> None:
    monkeypatch.setattr("runner.preflight.model_shape", lambda *_: model_shape(LLAMA_8B))
    out = run([*ARGUMENTS, f"cost.card={card}", "cost.dollars_per_gpu_hour=3600"], capsys)[1]
    assert f"by the limits of {title}: about" in out
    assert ("$" in out) == is_priced
    assert ("the hours of a CPU have no price here" in out) != is_priced


def test_a_measured_folder_that_is_named_must_have_a_run(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run([*ARGUMENTS, "preflight.measured=nowhere"], capsys)
    assert (code, err.count("\n")) == (64, 1)
    assert "preflight.measured=nowhere: no run that finished an answer" in err


def test_torn_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / METRICS).mkdir(parents=True)
    (tmp_path / METRICS / "r1.jsonl").write_bytes(
        b'{"kind":"start","time":1}\n{"kind":"sam\xff\n[]\n' + b"[" * 100_000 + b'\n{"kind":"end","time":2}\n'
    )
    assert [line["kind"] for line in read_metrics(tmp_path)] == ["start", "end"]
    assert last_measured(tmp_path) is None
    assert read_metrics(tmp_path / "nowhere") == []


def test_a_disk_that_refuses_ends_the_measuring_and_not_the_run(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "nowhere", "r1")
    log.append({"kind": "start", "time": 0})
    log.append({"kind": "end", "time": 0})


@pytest.mark.parametrize(("out_tokens", "seconds"), [(2048, 13.5), (8192, 88.7)])
def test_the_bandwidth_limit_of_known_workloads(out_tokens: int, seconds: float) -> None:
    """32 sequences of Llama-3.1-8B's shape, 128 tokens in: limits computed by hand from measured ceilings."""
    shape = model_shape(LLAMA_8B)
    assert shape is not None
    load = Load([128] * 32, [out_tokens] * 32, 32)
    assert seconds_at_limit(load, MEASURED_H100, shape, 256) == pytest.approx(seconds, rel=0.01)


def test_a_mixed_load_and_its_parts() -> None:
    shape = model_shape(LLAMA_8B)
    assert shape is not None
    chance = random.Random(0)
    prompts, answers = ([chance.randint(100, 1024) for _ in range(512)] for _ in range(2))
    whole = seconds_at_limit(Load(prompts, answers, 512), MEASURED_H100, shape, 512)
    assert whole == pytest.approx(22.3, rel=0.05)
    assert seconds_at_limit(Load(prompts, answers, 5120), MEASURED_H100, shape, 512) == pytest.approx(10 * whole)
    assert seconds_at_limit(Load(prompts, answers, 512), MEASURED_H100, shape, 32) > whole
    assert seconds_at_limit(Load([], [], 0), MEASURED_H100, shape, 32) == 0


def test_shapes_of_models() -> None:
    shape = model_shape(LLAMA_8B)
    assert shape is not None
    assert shape.weight_bytes == pytest.approx(16.06e9, rel=0.01)
    assert shape.kv_bytes == 131072
    experts = {**LLAMA_8B, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000}
    mixtral = model_shape(experts)
    assert mixtral is not None
    assert mixtral.weight_bytes / 2 == pytest.approx(46.7e9, rel=0.01)
    assert mixtral.decode_flops / 2 == pytest.approx(12.8e9, rel=0.02)
    assert model_shape({}) is None


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("gpt2 n_embd=768 n_layer=12 n_head=12 vocab_size=50257", 0.124e9),
        (
            "gemma2 hidden_size=3584 num_hidden_layers=42 num_attention_heads=16 num_key_value_heads=8 head_dim=256 "
            "intermediate_size=14336 vocab_size=256000",
            9.24e9,
        ),
        (
            "phi hidden_size=2560 num_hidden_layers=32 num_attention_heads=32 intermediate_size=10240 vocab_size=51200",
            2.78e9,
        ),
        (
            "starcoder2 hidden_size=3072 num_hidden_layers=30 num_attention_heads=24 num_key_value_heads=2 "
            "intermediate_size=12288 vocab_size=49152",
            3.03e9,
        ),
    ],
)
def test_what_a_config_leaves_out_is_known_of_its_type(config: str, parameters: float) -> None:
    model_type, *pairs = config.split()
    values = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
    shape = model_shape({"model_type": model_type, **values}, "float16")
    assert shape is not None
    assert shape.weight_bytes / 2 == pytest.approx(parameters, rel=0.02)


def test_what_fits_a_card() -> None:
    shape = model_shape(LLAMA_8B)
    assert shape is not None
    engine = EngineConfig()
    assert fit(CARDS["h100"], shape, engine, 1000).sequences == pytest.approx(400, abs=10)
    assert fit(CARDS["l4"], model_shape({**LLAMA_8B, "num_hidden_layers": 80}) or shape, engine, 1000).sequences == 0
    assert fit(CARDS["cpu"], shape, engine, 1).kv_bytes == 2 * 2**30


def test_prompts_that_begin_alike() -> None:
    survey = PromptSurvey(block_size=4)
    for prompt in ([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 0, 9], [9, 2, 3, 4], [9, 2, 3, 4]):
        survey.add(prompt)
    assert survey.shared_tokens == 4 + 4
    assert survey.duplicates == 1
    survey = PromptSurvey(block_size=2)
    for prompt in ([1, 2, 3, 4], [5, 6, 3, 4]):
        survey.add(prompt)
    assert survey.shared_tokens == 0


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_sample_is_spread_and_of_the_size_asked(num_rows: int, limit: int) -> None:
    found = stretches(num_rows, limit)
    assert sum(stop - start for start, stop in found) == min(num_rows, limit)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    assert found[-1][1] == num_rows or limit < num_rows
    if 1 < limit < num_rows:
        assert (found[0][0], found[-1][1]) == (0, num_rows)


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_bins_hold_every_value_once(values: list[int]) -> None:
    found = bins(values)
    assert sum(item.count for item in found) == len(values)
    assert len(found) <= 12
    assert all(sum(item.low <= value < item.high for item in found) == 1 for value in values)


def test_one_huge_value_leaves_the_others_apart() -> None:
    values = [*range(20, 120), 1_000_000]
    found = bins(values)
    assert max(item.count for item in found) <= 50
    assert (found[-1].high, found[-1].count) == (1_000_001, 1)
    assert [item.high - item.low for item in found[:-1]] == [50] * (len(found) - 1)


def test_quantiles() -> None:
    assert [quantile([4, 1, 3, 2], share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1, 1, 2, 3, 4]
