"""The report page: made of a real run of the stand-in, and looked at by a real browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from browser import Browser, is_installed
from hostile import HOSTILE, sent

from runner.report.__main__ import main
from runner.report.charts import areas, bars, lines, percents
from runner.report.samples import answer_card, error_card
from runner.report.survey import Bin
from runner.report.timeline import Axis, Stop

ROOT = Path(__file__).resolve().parents[2]
ALL = len(HOSTILE) + 61
in_a_browser = pytest.mark.skipif(not is_installed(), reason="needs chromium and chromedriver: make test-report")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run over hostile rows, ordinary ones, and one that is bad."""
    place = tmp_path_factory.mktemp("report")
    rows = [{"prompt": text, "n": i} for i, text in enumerate((*HOSTILE, *(f"plain question {i}" for i in range(60))))]
    text = "".join(json.dumps(row) + "\n" for row in (*rows, {"prompt": None, "n": -1}))
    (place / "rows.jsonl").write_text(text)
    arguments = ["job=generate", "engine=echo", "input.path=rows.jsonl", "output.dir=out", "output.rows_per_shard=20"]
    arguments += ["sampling.max_tokens=200", "metrics.seconds=0.01", "job.name='<b>bold & name'"]
    command = [sys.executable, "-m", "runner", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    return place / "out"


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    assert main([str(folder), "cost.dollars_per_gpu_hour=5"]) == 0
    return folder / "report.html"


def flip(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


@pytest.mark.parametrize("kind", ["data", "errors"])
@pytest.mark.parametrize(
    "damage", [flip, Path.unlink, lambda part: os.truncate(part, 100)], ids=["flipped", "missing", "cut"]
)
def test_a_damaged_part_is_named_in_one_line(
    damage: Callable[[Path], None], kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "out")
    part = max((tmp_path / "out" / kind).glob("*.arrow"))
    damage(part)
    assert main([str(tmp_path / "out")]) == 65
    shown = capsys.readouterr().err
    assert str(part) in shown and "runner.repair" in shown and shown.count("\n") == 1


def test_a_part_that_is_yet_to_be_published_is_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    assert main([str(tmp_path / "out"), "samples=1000"]) == 0
    before = len(cards_of(tmp_path / "out"))
    part = tmp_path / "out" / "data" / "part-00000.arrow"
    num_lines = pa.ipc.open_file(part).read_all().num_rows
    stage = tmp_path / "out" / ".runner" / "stage" / "000001"
    stage.mkdir(parents=True)
    part.rename(stage / "data-00000.g1.arrow")
    assert main([str(tmp_path / "out"), "samples=1000"]) == 0
    assert len(cards_of(tmp_path / "out")) == before - num_lines


def cards_of(out: Path) -> list[dict[str, object]]:
    found = re.search(r'id="samples">(.*?)</script>', (out / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return list(json.loads(found[1]))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_asks_for_nothing(page: Path) -> None:
    tags = Tags()
    tags.feed(page.read_text("utf-8"))
    assert not [tag for tag, _ in tags.found if tag in ("img", "link", "iframe", "object", "embed", "b ")]
    assert not [attrs for _, attrs in tags.found if {"src", "href", "onerror", "onclick"} & attrs.keys()]
    assert [tag for tag, _ in tags.found].count("script") == 2
    assert "default-src 'none'" in page.read_text("utf-8")
    assert page.stat().st_size < 1_000_000


def test_no_control_character_reaches_the_page(page: Path) -> None:
    assert sent(page.read_text("utf-8")) == []


def test_verify_ignores_it_and_a_rerun_leaves_it(page: Path) -> None:
    from runner.output.verification import verify

    assert verify(page.parent).damages == []


def test_it_leaves_nothing_else_behind(page: Path) -> None:
    assert not list((page.parent / ".runner").glob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere"], "nowhere: there is no job"),
        (["a", "b"], "give one output folder, not 2"),
        (["a", "cost.dolars=1"], "cost.dolars=1: no such setting"),
        (["a", "samples=-1"], "samples=-1: must be a whole number"),
        (["a", "cost.dollars_per_gpu_hour=nan"], "must be a number"),
    ],
)
def test_a_refusal_is_one_line_and_64(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 64
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1


def test_help_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "report.html" in capsys.readouterr().out


def test_cards_say_what_is_wrong_with_an_answer() -> None:
    line = {"row_id": 3, "sample_index": 1, "prompt": "p", "prompt_tokens": 1, "completion_tokens": 2}
    card = answer_card({**line, "completion": "no " * 60, "finish_reason": "length", "label": None}, ["label"])
    assert card["states"] == ["truncated", "repeated", "unparsed"]
    assert card["title"] == "row 3, sample 1"
    for parsed, says in (({"label": False}, True), ({"n": 0}, True), ({"label": "x", "parsed": False}, False)):
        card = answer_card({**line, "completion": "a", "finish_reason": "stop", **parsed}, list(parsed))
        assert ("unparsed" not in card["states"]) is says  # as the guard counts them
    card = answer_card({**line, "completion": "\x1b", "prompt": None, "finish_reason": "stop"}, [])
    assert (card["states"], card["answer"]) == ([], "\\x1b")
    error = {"row_id": 1, "code": "c", "stage": "read", "message": "m", "raw": "r\x00", "mine": "\u202e"}
    card = error_card(error, {"row_id", "code", "stage", "message", "raw"})
    assert (card["answer"], "\\u202e" in card["prompt"]) == ("m\n\nr\\x00", True)


@pytest.mark.parametrize("prefix", ["", "gen_"])
def test_the_column_of_logprobs_is_not_the_jobs_output(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    arguments = ["job=generate", "engine=echo", "input.path=rows.jsonl", "output.dir=out", "sampling.logprobs=1"]
    command = [sys.executable, "-m", "runner", *arguments, f"output.column_prefix={prefix}"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    assert main([str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    data = re.search(r'id="samples">(.*?)</script>', page)
    assert data is not None
    (card,) = json.loads(data[1])
    assert (card["parsed"], "unparsed" in card["states"]) == ("", False)


def test_a_wider_last_bar_says_so() -> None:
    assert "last bar: 10 to 999 tokens" in bars([Bin(0, 10, 5), Bin(10, 1000, 1)], "x")
    assert "last bar" not in bars([Bin(0, 10, 5), Bin(10, 20, 1)], "x")


def test_charts_escape_and_hold_every_bar() -> None:
    two, none = Axis([0.0, 1.0]), Axis([])
    assert bars([Bin(0, 10, 3), Bin(10, 20, 1)], '"<x>').count("<rect") == 2
    assert "<x>" not in bars([Bin(0, 10, 3)], '"<x>') + lines(two, {"<x>": [1.0, 2.0]}, "<x>")
    assert lines(none, {"a": []}, "") == areas(none, {"a": []}, "") == bars([], "") == ""
    assert areas(two, {"<x>": [0.2, 0.4], "b": [0.8, 0.6]}, "<x>").count("<polygon") == 2
    assert "<x>" not in areas(two, {"<x>": [0.2, 0.4]}, "<x>")
    assert ">50%<" in percents(two, {"a": [0.1, 0.5]}, "")


@pytest.mark.parametrize(
    ("most", "words"), [(2_000, ["1,000", "2,000"]), (500_000, ["250k", "500k"]), (2_000_000, ["1M", "2M"])]
)
def test_the_words_of_an_axis_are_short_enough_for_a_phone(most: float, words: list[str]) -> None:
    chart = lines(Axis([0.0, 1.0]), {"a": [0.0, most]}, "")
    assert [word for word in words if f">{word}</text>" in chart] == words


@pytest.mark.parametrize(("draw", "shape"), [(lines, "<polyline"), (areas, "<polygon")])
def test_a_stop_breaks_a_curve_and_says_how_long_it_was(draw: Callable[..., str], shape: str) -> None:
    axis = Axis([0.0, 1.0, 1.5, 2.0, 3.0], [Stop(1.0, 2.0, 7200.0)], 7202.0)
    chart = draw(axis, {"a": [1.0, 1.0, None, 0.5, 0.5]}, "")
    assert chart.count(shape) == 2
    assert chart.count('class="stop"') == 1
    assert "nothing ran for 2 h 00 min" in chart
    assert ">2 h 00 min<" in chart  # the end of the axis


@pytest.fixture(scope="module", params=[(1200, 900, False), (390, 800, True)], ids=["desktop", "phone"])
def window(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser(*request.param) as found:
        yield found


@pytest.fixture
def browser(window: Browser, page: Path) -> Browser:
    window.open(page)
    return window


def search(browser: Browser, text: str) -> str:
    typed = f"s.value = {json.dumps(text)}; s.dispatchEvent(new Event('input'))"
    browser.run(f"const s = document.getElementById('search'); {typed}")
    return browser.run("return document.getElementById('count').textContent")


@in_a_browser
def test_it_loads_without_errors_and_shows_hostile_text_as_text(browser: Browser) -> None:
    assert browser.errors == []
    assert browser.run("return document.title") == "<b>bold & name"
    assert browser.run("return document.images.length + document.querySelectorAll('main b, main script').length") == 0
    assert "</script><script>document.title='taken'" in browser.run("return document.querySelector('main').textContent")
    browser.run("document.getElementById('more').click()")
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


@in_a_browser
def test_search_and_filters_work(browser: Browser) -> None:
    assert search(browser, "plain question 37") == f"1 of {ALL}"
    assert browser.run("return document.querySelectorAll('.sample').length") == 1
    assert (
        browser.run("return [...document.querySelectorAll('mark')].map((m) => m.textContent)[0]") == "plain question 37"
    )
    assert search(browser, "nothing like it") == f"0 of {ALL}"
    assert search(browser, "") == f"{ALL} of {ALL}"
    assert browser.run("return document.querySelectorAll('.sample').length") == 25
    browser.run("document.getElementById('more').click()")
    assert browser.run("return document.querySelectorAll('.sample').length") == 50
    choose = "const f = document.getElementById('finish'); f.value = 'error'; f.dispatchEvent(new Event('input'))"
    browser.run(choose)
    assert browser.run("return document.getElementById('count').textContent") == f"1 of {ALL}"
    assert "prompt_null" in browser.run("return document.querySelector('.sample').textContent")
    assert browser.errors == []


@in_a_browser
def test_dark_is_dark(browser: Browser) -> None:
    wants_dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    red = browser.run("return Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red < 60) == wants_dark
