"""What all runs of a job did together: added up by the clock, with stops, and what it cost."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from runner.output.commits import Totals
from runner.report.history import History, history_of
from runner.report.page import Facts, render
from runner.report.timeline import Curve


@pytest.mark.parametrize(
    ("given", "recorded", "is_done", "devices", "parts"),
    [
        (None, None, True, ["H"], []),
        (3600.0, None, True, ["H"], ["$100.00cost", "$1,000,000.00a million", "$50.00of it the tail"]),
        (None, 36.0, True, ["H"], ["$1.00cost", "0.03GPU hours", "$0.20of it idle GPU"]),
        (36.0, 1.0, False, ["H"], ["$1.00cost", "$4.00cost of all rows, projected"]),
        (36.0, None, True, ["H", "H"], ["$2.00cost", "$20,000.00a million", "$1.00of it the tail", "$0.40of it idle"]),
        (3600.0, None, True, [""], ["nonecost: no GPU ran"]),
        (3600.0, None, True, ["", "H"], ["$100.00cost", "1 min 40 son a CPU, not in the cost", "$2,000,000.00a mill"]),
    ],
)
def test_what_it_cost(
    given: float | None, recorded: float | None, is_done: bool, devices: list[str], parts: list[str]
) -> None:
    metrics = [
        line
        for place, device in enumerate(devices)
        for line in (
            {"kind": "start", "run": str(place), "time": 0, "dollars_per_gpu_hour": recorded},
            *(measured(str(place), second, 0, 8 if second < 50 else 1, device) for second in range(10, 101, 10)),
        )
    ]
    shown = re.sub("<[^>]*>", "", render(facts_of(history_of(metrics), is_done, given)))
    for part in parts:
        assert part in shown
    assert ("cost" in shown) == bool(parts)
    assert bool(re.search(r"\$[0-9]", shown)) == (bool(parts) and "H" in devices)


def facts_of(history: History, is_done: bool = True, dollars_per_gpu_hour: float | None = None) -> Facts:
    totals = Totals(rows=5, samples=5, completion_tokens=100)
    lengths: dict[str, Counter[int]] = {"prompt_tokens": Counter(), "completion_tokens": Counter()}
    return Facts("job", is_done, 20, totals, {}, Counter(), lengths, [], history, dollars_per_gpu_hour)


def measured(run: str, second: float, tokens: int, running: int, device: str = "H", began: float = 0) -> dict[str, Any]:
    """A line of a run that began to generate at ``began``; it made 10 answer tokens a second."""
    engine = {"completion_tokens": tokens, "num_running": running, "steps": 1, "device": device}
    usage = {"prefill": 0.2, "decode": 0.6, "host": 0.15, "io": 0.05, "flops": 0.3, "bandwidth": None}
    shares = {"usage": usage, "quality": {"empty": 0.5, "repeated": 0.0}, "quality_totals": {"empty": 1, "repeated": 0}}
    counts = {"samples": 1, "finished_tokens": 10, "generating_seconds": second, "engine": engine}
    said = f"the tail: the last {running} answers"
    return {"kind": "sample", "run": run, "time": began + second, **counts, **shares, "bottleneck": said}


def run_of(run: str, began: float, seconds: int, running: int = 8, partition: str = "0/1") -> list[dict[str, Any]]:
    start = {"kind": "start", "run": run, "time": began - 5, "model": "m", "partition": partition}
    return [start, *(measured(run, n, 10 * n, running, began=began) for n in range(1, seconds + 1))]


def values(curve: Curve) -> set[float | None]:
    return {value if value is None else round(value, 6) for value in curve}


def test_partitions_side_by_side_add_up_by_the_clock() -> None:
    lines_of_both = [*run_of("a", 100, 60, 8, "0/2"), *run_of("b", 130, 60, 2, "1/2")]
    history = history_of(sorted(lines_of_both, key=lambda line: line["time"]))
    curves, times = history.curves(), history.axis.times
    speed, running = curves["made"]["answer tokens"], curves["queue"]["running"]
    together = [i for i, second in enumerate(times) if 30 < second < 60]
    assert values([speed[i] for i in together]) == {20}
    assert values([running[i] for i in together]) == {10}
    assert values([speed[i] for i in range(len(times)) if i not in together]) == {10}
    assert values(curves["runs"]["processes"]) == {1, 2}
    assert values(curves["device"]["idle"]) == {0.2}  # a mean: two idle a fifth of the time idle a fifth of it
    assert (history.axis.seconds, history.axis.stops) == (90, [])
    assert (history.seconds, history.gpu_seconds) == (120, 120)
    assert history.tokens_per_second == pytest.approx(20 / 90)
    assert history.tail_seconds == pytest.approx(30, abs=1.5)  # two of ten run on
    assert history.tail_gpu_seconds == pytest.approx(30, abs=1.5)
    page = render(facts_of(history))
    assert "Over time (2 runs together)" in page
    assert page.count("<td>0/2</td>") == page.count("<td>1/2</td>") == 1


def test_a_restart_is_a_gap_and_a_long_one_is_drawn_short() -> None:
    history = history_of([*run_of("a", 1000, 100), *run_of("b", 1000 + 7300, 50)])
    speed, axis = history.curves()["made"]["answer tokens"], history.axis
    (stop,) = axis.stops
    assert (stop.start, stop.seconds) == (100, 7200)
    assert stop.end - stop.start == pytest.approx(0.04 * 150)
    assert axis.seconds == 7350
    assert speed.count(None) == 1
    assert stop.start < axis.times[speed.index(None)] < stop.end
    assert values(speed) == {10, None}
    assert history.tokens_per_second == pytest.approx(20 / 150)
    assert history.idle_gpu_seconds == pytest.approx(0.2 * 150)
    page = render(facts_of(history))
    assert page.count("nothing ran for 2 h 00 min") == page.count("<svg") > 3


def test_nothing_is_lost_or_made_up_between_the_bins() -> None:
    history = history_of([*run_of("a", 0, 977), *run_of("b", 400.5, 333), *run_of("c", 5000, 61)])
    speed, times = history.curves()["made"]["answer tokens"], history.axis.times
    area = 0.0
    for (left, low), (right, high) in pairwise(zip(times, speed, strict=True)):
        area += (right - left) * (low + high) / 2 if low is not None and high is not None else 0.0
    assert area == pytest.approx(10 * (977 + 333 + 61), rel=0.01)
    assert len(times) < 170


def test_a_new_engine_within_a_run_counts_anew() -> None:
    metrics = [measured("a", second, made, 8) for second, made in ((1, 10), (2, 20), (3, 10), (4, 20))]
    assert values(history_of(metrics).curves()["made"]["answer tokens"]) == {10}


def test_a_share_counts_only_where_it_is_known() -> None:
    metrics = run_of("a", 0, 10)
    metrics[1]["usage"] = dict.fromkeys(metrics[1]["usage"], 0.0)  # no counters had come yet
    metrics[1]["quality"] = {}  # nor an answer
    history = history_of(metrics)
    curves = history.curves()
    assert values(curves["device"]["decode"]) == {None, 0.6}
    assert values(curves["quality"]["empty"]) == {None, 0.5}
    assert "Time of the engine, on average: prefill 20%, decode 60%, idle 20%." in history.notes()
    metrics[1]["quality"] = {"empty": 0.0, "repeated": 0.0}  # which is known
    assert values(history_of(metrics).curves()["quality"]["empty"]) == {0.0, 0.5}


def test_history_says_what_it_saw_in_words() -> None:
    metrics = run_of("a", 100, 10)
    metrics[-1]["engine"] |= {"prompt_tokens": 30, "cached_tokens": 10, "preemptions": 2}
    metrics += [measured("b", n, 10 * n, running, began=200) for n, running in ((1, 8), (2, 8), (3, 1), (4, 1), (5, 1))]
    found = history_of(metrics)
    assert (found.model, found.seconds, found.answers, found.device) == ("m", 15, 2, "H")
    assert found.notes() == [
        "Bottleneck most of the time: the tail: the last 1 answers.",
        "Time of the engine, on average: prefill 20%, decode 60%, idle 20%.",
        "Use of the card, on average: arithmetic (MFU) 30%.",
        "Tail: the last 2 s (2%) had less than half of the sequences running.",
        "Prefix cache: 25% of the prompt tokens; 2 preemptions.",
    ]
    assert found.quality == {"empty": 2, "repeated": 0}
    assert found.curves()["quality"].keys() == {"empty"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{"kind": "start", "run": "a", "time": 1}],
        [{"kind": "end", "run": "a", "time": 1, "samples": 0, "engine": {"steps": 0}}],
        [{"kind": "end", "run": "a", "time": 1, "samples": 0}],
    ],
)
def test_a_run_that_measured_nothing_draws_nothing(metrics: list[dict[str, Any]]) -> None:
    found = history_of(metrics)
    assert (found.notes(), found.seconds, found.tokens_per_second, found.tail_seconds) == ([], 0, 0, 0)
    assert "Nothing was measured" in render(facts_of(found, dollars_per_gpu_hour=5))
