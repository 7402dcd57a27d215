"""The report page: one HTML file that needs no network. What comes from rows or models is escaped everywhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from runner.report import charts
from runner.report.history import History
from runner.report.plain import one_line, plain
from runner.report.runs import Run
from runner.report.survey import bins_of_counts
from runner.report.throughput import duration

_ASSETS = Path(__file__).parent / "assets"
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_SAMPLES = """\
<h2>Answers</h2>
<div class="controls">
<input id="search" type="search" aria-label="Search" placeholder="Search prompts and answers">
<select id="finish" aria-label="Why it ended"><option value="">any end</option></select>
<select id="state" aria-label="State"><option value="">any state</option></select>
<span class="soft" id="count" role="status"></span>
</div>
<main id="list"></main>
<button id="more" type="button">Show more</button>"""
_SHOWN_ERRORS = 30
_NUM_BINS = 24
_SHOWN_RUNS = 50


@dataclass(frozen=True)
class Facts:
    """Everything that the page shows. ``samples`` are as `runner.report.samples` makes them."""

    name: str
    is_done: bool
    num_rows: int
    totals: Any
    settings: Mapping[str, Any]
    finish_reasons: Counter[str]
    lengths: Mapping[str, Counter[int]]
    samples: Sequence[Mapping[str, Any]]
    history: History
    dollars_per_gpu_hour: float | None = None
    written: str = ""


def render(facts: Facts) -> str:
    """The whole page as HTML."""
    body = "\n".join(
        (_head(facts), _cards(facts), _quality(facts), _lengths(facts), _time(facts), _settings(facts), _SAMPLES)
    )
    # In a script element only these could end it; JSON may write them as escapes.
    data = json.dumps(facts.samples, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(facts.name)}</title>\n<style>\n{_asset('page.css')}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="samples">{data}</script>\n'
        f"<script>\n{_asset('page.js')}</script>\n</body></html>\n"
    )


def text(value: object, limit: int = 300) -> str:
    """Any value as one line of safe text."""
    return escape(one_line(str(value), limit))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _head(facts: Facts) -> str:
    state = "done" if facts.is_done else '<span class="bad">not done yet</span>'
    settings = facts.settings
    model = text(facts.history.model or settings.get("model.path") or "")
    return (
        f'<header><h1>{text(facts.name)}</h1><p class="soft">{state} · {model} · '
        f"report of {text(facts.written)}</p></header>"
    )


def _cards(facts: Facts) -> str:
    totals, history = facts.totals, facts.history
    found = [
        ("rows", f"{totals.rows:,} of {facts.num_rows:,}"),
        ("answers", f"{totals.samples:,}"),
        ("rows with errors", f"{totals.failed_rows:,}"),
        *([("answers dropped by the job", f"{totals.dropped:,}")] if totals.dropped else []),
        ("prompt tokens", _short(totals.prompt_tokens)),
        ("answer tokens", _short(totals.completion_tokens)),
    ]
    if history.seconds:
        of_all = f", {len(history.runs):,} runs added up" if len(history.runs) > 1 else ""
        found.append((f"time generating{of_all}", duration(history.seconds)))
        found.append(("answer tokens a second", f"{history.tokens_per_second:,.0f}"))
    found += _costs(facts)
    return f'<section class="cards">{"".join(_card(label, value) for label, value in found)}</section>'


def _costs(facts: Facts) -> list[tuple[str, str]]:
    """Of the hours of GPUs, at the rate given, or else at that of the last run; nothing without one."""
    history, totals = facts.history, facts.totals
    rate = history.dollars_per_gpu_hour if facts.dollars_per_gpu_hour is None else facts.dollars_per_gpu_hour
    if rate is None or not history.seconds:
        return []
    if not history.gpu_seconds:
        return [("cost: no GPU ran", "none")]
    dollars = history.gpu_seconds / 3600 * rate
    found = [("cost", f"${dollars:,.2f}"), ("GPU hours", f"{history.gpu_seconds / 3600:,.2f}")]
    unpriced = history.seconds - history.gpu_seconds
    if unpriced:
        found.append(("on a CPU, not in the cost", duration(unpriced)))
    if not facts.is_done and totals.rows:
        found.append(("cost of all rows, projected", f"${dollars * facts.num_rows / totals.rows:,.2f}"))
    tokens = max(totals.completion_tokens * history.gpu_token_share, 1.0)
    found.append(("a million answer tokens", f"${dollars / tokens * 1e6:,.2f}"))
    if history.tail_gpu_seconds:
        found.append(("of it the tail", f"${history.tail_gpu_seconds / 3600 * rate:,.2f}"))
    if history.idle_gpu_seconds:
        found.append(("of it idle GPU", f"${history.idle_gpu_seconds / 3600 * rate:,.2f}"))
    return found


def _card(label: str, value: str) -> str:
    return f'<div class="card"><b>{text(value)}</b><span class="soft">{text(label)}</span></div>'


def _quality(facts: Facts) -> str:
    finish = _share_table("Why answers ended", facts.finish_reasons.most_common())
    errors = Counter(facts.totals.errors).most_common(_SHOWN_ERRORS)
    failures = _share_table("Errors by code", errors) if errors else '<h3>Errors by code</h3><p class="soft">None.</p>'
    quality = _share_table("Quality of all answers", facts.history.quality.items(), facts.history.answers)
    return (
        f'<h2>Outcome</h2><section class="charts"><div class="card">{finish}</div><div class="card">{failures}</div>'
        f"{f'<div class=card>{quality}</div>' if facts.history.answers else ''}</section>"
    )


def _share_table(title: str, items: Iterable[tuple[Any, int]], total: int | None = None) -> str:
    found = list(items)
    whole = max(total if total is not None else sum(count for _, count in found), 1)
    rows = "".join(
        f'<tr><td>{text(name)}</td><td class="n">{count:,}</td><td class="n">{count / whole:.1%}</td>'
        f'<td><div class="meter"><i style="width:{min(100 * count / whole, 100):.1f}%"></i></div></td></tr>'
        for name, count in found
    )
    return f"<h3>{title}</h3><table>{rows}</table>"


def _lengths(facts: Facts) -> str:
    titles = {"prompt_tokens": "Prompt lengths", "completion_tokens": "Answer lengths"}
    boxes = []
    for name, title in titles.items():
        counts = facts.lengths[name]
        if counts:
            mean = sum(length * count for length, count in counts.items()) / counts.total()
            note = f"mean {mean:,.0f}, longest {max(counts):,} tokens"
            chart = charts.bars(bins_of_counts(counts, _NUM_BINS), f"{title}: answers by tokens")
            boxes.append(f'<div class="card"><h3>{title}</h3>{chart}<p class="soft">{note}</p></div>')
    return f'<h2>Lengths</h2><section class="charts">{"".join(boxes)}</section>' if boxes else ""


def _time(facts: Facts) -> str:
    """Charts of all runs on one clock, what they say in words, and each run in a line."""
    history = facts.history
    if not history.axis.times:
        return '<h2>Over time</h2><p class="soft">Nothing was measured (metrics.seconds, .runner/metrics/).</p>'
    notes = [f"<p>{text(note)}</p>" for note in history.notes()]
    curves = history.curves()
    boxes = (
        ("Answer tokens a second", charts.lines, "made"),
        ("Prompt tokens computed a second", charts.lines, "read"),
        ("Sequences in the engine", charts.lines, "queue"),
        ("Time of the GPU" if history.device else "Time of the engine", charts.areas, "device"),
        ("Use of the card, by its data sheet", charts.percents, "card"),
        ("Time of the feeding process", charts.areas, "process"),
        ("Quality of the latest answers", charts.percents, "quality"),
        ("Processes at once", charts.lines, "runs"),
    )
    shown = "".join(
        f'<div class="card"><h3>{_titled(title, curves[key])}</h3>'
        f"{draw(history.axis, curves[key], f'{title}, over time')}</div>"
        for title, draw, key in boxes
        if any(map(any, curves[key].values()))
    )
    together = f" ({len(history.runs):,} runs together)" if len(history.runs) > 1 else ""
    stops = '<p class="soft">In a grey band nothing ran; a long stop is drawn short.</p>' if history.axis.stops else ""
    charted = f'<section class="charts">{shown}</section>{stops}{_runs(history.runs)}'
    return f"<h2>Over time{together}</h2>{''.join(notes)}{charted}"


def _titled(title: str, curves: Mapping[str, Any]) -> str:
    """With the name of the only curve, which then has no legend, unless the title says it."""
    only = next(iter(curves)) if len(curves) == 1 else ""
    return escape(title if not only or title.lower().startswith(only) else f"{title}: {only}")


def _runs(runs: Sequence[Run]) -> str:
    """The latest runs, a line each."""
    names = ("began", "partition", "on", "generating", "rows", "answers", "tokens")
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(f"<tr>{''.join(_cell(value) for value in _run(run))}</tr>" for run in runs[-_SHOWN_RUNS:])
    more = f"the last {_SHOWN_RUNS} of {len(runs):,} runs" if len(runs) > _SHOWN_RUNS else f"Runs: {len(runs):,}"
    return f'<details><summary>{more}</summary><div class="wide"><table><tr>{head}</tr>{lines}</table></div></details>'


def _run(run: Run) -> tuple[str, ...]:
    began = run.start.get("time") or run.last.get("time", 0.0)
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)),
        str(run.start.get("partition") or "0/1"),
        run.device or "CPU",
        duration(run.seconds),
        *(f"{run.last.get(name, 0):,}" for name in ("rows", "samples", "finished_tokens")),
    )


def _cell(value: str) -> str:
    return f"<td>{text(value)}</td>"


def _settings(facts: Facts) -> str:
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{escape(plain(_value(value), 2000))}</td></tr>"
        for key, value in sorted(facts.settings.items())
        if value not in (None, "", [], {})
    )
    table = f'<table class="settings">{rows}</table>'
    return f"<h2>Settings</h2><details><summary>What decided the output</summary>{table}</details>"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _short(number: float) -> str:
    if number < 1e6:
        return f"{number:,.0f}"
    return f"{number / 1e6:,.1f} M" if number < 1e9 else f"{number / 1e9:,.2f} G"
