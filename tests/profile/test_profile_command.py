"""python -m runner.profile: a tiny model in both modes, and the figures of recordings whose answers are known."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runner.cli.entry import main
from runner.engine.device import CpuDevice
from runner.engine.profiling import Recording, Span, Step, StepSpan
from runner.engine.profiling.watched import WatchedDevice
from runner.profile import __main__ as command
from runner.profile.figures import figures
from runner.report.cards import ModelShape
from tests.run.commands import write_rows
from tests.tiny_models import save_tiny_model

ARGUMENTS = ("job=generate", "input.path=rows.jsonl", "model.path=model", "model.device=cpu", "engine.max_num_seqs=4")
SLICE = ("sampling.max_tokens=40", "sampling.ignore_eos=true", "profile.rows=6", "profile.steps=30", "profile.dir=out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    save_tiny_model(folder / "model")
    write_rows(folder, 24)
    return folder


def profile(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    return main([*ARGUMENTS, *SLICE, *arguments], command._USAGE, command.profile)


def test_copies_leave_spans_and_what_is_no_step_leaves_none() -> None:
    device = WatchedDevice(CpuDevice())
    buffer = device.device_buffer("any", 1)
    device.recorder.start()
    device.compute.enqueue(lambda: None)
    device.h2d.enqueue(lambda: None, writes=[buffer])
    assert [span.lane for span in device.recorder.stop()] == ["h2d"]


def spans(events: list[dict[str, Any]], process: int, *names: str) -> list[tuple[float, float]]:
    chosen = [e for e in events if e["ph"] == "X" and e["pid"] == process and e["name"] in names]
    return sorted((event["ts"], event["ts"] + event["dur"]) for event in chosen)


def test_a_slice_in_both_modes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(folder, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "6 requests" in out and "at the bandwidth limit" in out
    values = json.loads((folder / "out" / "figures.json").read_text())
    assert values["sync"]["steps"] == values["async"]["steps"] == 30
    assert values["sync"]["prompt_steps"] == values["async"]["prompt_steps"] > 0
    assert (folder / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "outputs").exists()


def test_the_trace_shows_a_launch_ahead_in_asynchronous_mode_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profile(folder, monkeypatch) == 0
    events = json.loads((folder / "out" / "trace.json").read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["sync", "async"]
    for process, is_ahead in ((1, False), (2, True)):
        launches, steps = spans(events, process, "launch"), spans(events, process, "prefill", "decode")
        assert len(steps) == len(spans(events, process, "d2h")) == 30
        ahead = [launch[0] < step[1] for launch, step in zip(launches[1:], steps, strict=False)]
        assert all(ahead) if is_ahead else not any(ahead)
        assert all(before[1] <= after[0] for before, after in pairwise(steps))


def threads(events: list[dict[str, Any]], process: int) -> dict[int, str]:
    return {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == process}


@pytest.mark.parametrize("overlap", [False, True])
def test_prompts_have_a_lane_of_their_own_where_they_are_computed_beside_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    arguments = ("sampling.max_tokens=12", "profile.rows=12", "engine.max_num_batched_tokens=16", "profile.dir=lanes")
    assert profile(folder, monkeypatch, f"engine.overlap_prefill={str(overlap).lower()}", *arguments) == 0
    events = json.loads((folder / "lanes" / "trace.json").read_text())["traceEvents"]
    values = json.loads((folder / "lanes" / "figures.json").read_text())
    for process, mode in ((1, "sync"), (2, "async")):
        lanes, shown = threads(events, process), [e for e in events if e["pid"] == process and e["ph"] == "X"]
        assert list(lanes.values()) == ["host", "h2d", "compute", *(["prompts"] if overlap else []), "d2h"]
        steps = [e for e in shown if "args" in e]
        assert len(steps) == values[mode]["steps"] >= 30
        for step in steps:
            prompts, rows = step["args"]["prompt_tokens"], step["args"]["decode_rows"]
            assert (prompts > 0, rows > 0) == (step["name"] == "prefill", step["name"] == "decode")
            assert lanes[step["tid"]] == ("prompts" if overlap and prompts else "compute")
        num_prompts = sum(step["name"] == "prefill" for step in steps)
        assert values[mode]["prompt_steps"] == num_prompts > 1
        count = Counter(lanes[event["tid"]] for event in shown)
        assert count["prompts"] == (num_prompts if overlap else 0)
        assert count["compute"] == count["d2h"] == len(steps) - count["prompts"]
    assert (folder / "lanes" / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_rest_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "can_draw", lambda: False)
    assert profile(folder, monkeypatch, "profile.dir=plain") == 0
    assert "no timeline.png" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "plain").iterdir()) == ["figures.json", "trace.json"]


def test_the_stand_in_has_nothing_to_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(folder, monkeypatch, "engine=echo") == 64
    assert "engine.kind=echo" in capsys.readouterr().err


def test_figures_of_a_known_recording() -> None:
    """A prompt step and two decode steps of 2 s each, with gaps of 1 s and 0.5 s between them."""
    steps = [(1.0, Step(0, 0, 10, 1)), (4.0, Step(1, 100, 0, 1)), (6.5, Step(3, 300, 0, 3))]
    compute = [StepSpan("compute", "compute", start, 2.0, step=step) for start, step in steps]
    host = [
        Span("host", "step", 0.0, 3.0),
        Span("host", "schedule", 0.0, 0.3, 1),
        Span("host", "launch", 0.3, 0.6, 1),
        Span("host", "packet", 0.4, 0.25, 2),
        Span("host", "wait", 0.9, 1.5, 1),
        Span("host", "accept", 2.4, 0.2, 1),
        Span("host", "step", 3.0, 1.0),  # launches nothing
        Span("host", "wait", 3.0, 0.6, 1),
        Span("host", "accept", 3.6, 0.3, 1),
        Span("host", "step", 4.0, 0.5),
        Span("host", "schedule", 4.0, 0.05, 1),
        Span("host", "launch", 4.05, 0.2, 1),
        Span("host", "packet", 4.05, 0.04, 2),
        Span("host", "accept", 4.3, 0.1, 1),
        Span("host", "step", 6.0, 0.5),
        Span("host", "schedule", 6.0, 0.1, 1),
        Span("host", "launch", 6.1, 0.3, 1),
        Span("host", "packet", 6.1, 0.06, 2),
        Span("host", "wait", 6.4, 0.02, 1),
    ]
    shape = ModelShape(step_bytes=1000, weight_bytes=0, decode_flops=0, prefill_flops=0, kv_bytes=10)
    found = figures(Recording(True, [*host, *compute]), shape, bandwidth=1000.0)
    assert (found.steps, found.prompt_steps, found.tokens_per_second) == (3, 1, 5 / 8.5)
    assert (found.busy, found.idle) == (6 / 7.5, 1.5 / 7.5)
    assert (found.steady_idle, found.decode_step) == (0.5 / 2.5, 2.5)
    assert found.limit == (1000 + 200 * 10) / 1000
    expected = {"schedule": 0.1, "packet": 0.06, "launch": 0.24, "accept": 0.1, "other": 0.15}
    assert found.host == pytest.approx(expected)
    assert found.wait == 0.02
    assert found.host_busy == pytest.approx((1.5 + 0.4 + 0.5 + 0.48) / 8.5)


def test_a_slice_of_prompts_alone_has_no_decode_figures() -> None:
    recording = Recording(False, [StepSpan("compute", "compute", 0.0, 2.0, step=Step(0, 0, 10, 1))])
    found = figures(recording, None, bandwidth=1.0)
    assert (found.steady_idle, found.decode_step, found.limit) == (None, None, None)
    assert found.busy == 1.0


def test_what_either_lane_computes_is_no_idling_and_rows_beside_prompts_are_not_steady() -> None:
    """Rows of 2 s each; a prompt of 3 s lasts over the third and over half a second before and after it."""
    rows = [StepSpan("compute", "compute", start, 2.0, step=Step(1, 9, 0, 1)) for start in (0.0, 2.5, 5.5, 9.0, 11.0)]
    prompt = StepSpan("prompts", "prompts", 5.0, 3.0, step=Step(0, 0, 10, 1))
    found = figures(Recording(True, sorted([*rows, prompt], key=lambda span: span.start)), None, bandwidth=1.0)
    assert (found.steps, found.prompt_steps) == (6, 1)
    assert (found.busy, found.idle) == pytest.approx((11 / 13, 2 / 13))
    assert (found.steady_idle, found.decode_step) == pytest.approx((0.5 / 4.5, 2.25))
