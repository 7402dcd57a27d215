"""The template's sandbox: what it renders, and the attacks that it stops."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.config import JobConfig
from runner.errors import ConfigError
from runner.input import few_shot as few_shot_module
from runner.input import template
from runner.input.template import PromptTemplate, TemplateError, load_template

VALUES = {"a": "hello", "b": ["x", "y"], "c": None, "d": {"k": 1}}
GROWING = "{% set n = namespace(x='ab') %}{% for i in range(60) %}BODY{% endfor %}{{ n.x | length }}"


def render(source: str) -> str:
    return PromptTemplate(source, list(VALUES)).render(VALUES)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ a }}:{% for x in b %}{{ loop.index }}{{ x }}{% endfor %}", "hello:1x2y"),
        ("{% if c %}{{ c }}{% else %}none{% endif %}", "none"),
        ("{{ c or 'default' }}", "default"),
        ("{{ a ~ '-' ~ b | length ~ d.k }}", "hello-21"),
        ("{{ a | upper | replace('L', 'l') | center(9) }}", "  HEllO  "),
        ("{{ '%05.2f' | format(3.14159) }} {{ '{:>4}'.format(7) }} {{ 'a%sb' % 1 }}", "03.14    7 a1b"),
        ("{{ b | join(', ') }} {{ d | tojson }} {{ 7 * 6 + 1 }} {{ 2 ** 10 }} {{ 7 % 4 }}", 'x, y {"k": 1} 43 1024 3'),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(a) }}", "<hello>"),
        ("{% set t %}{{ a }}!{% endset %}{{ t }}", "hello!"),
        ("<b>&{{ '<' }}", "<b>&<"),
    ],
)
def test_it_renders(source: str, text: str) -> None:
    assert render(source) == text


def test_text_of_a_row_is_never_a_template() -> None:
    assert PromptTemplate("{{ a }}", ["a"]).render({"a": "{{ 7 * 7 }}{% for %}"}) == "{{ 7 * 7 }}{% for %}"


@pytest.mark.parametrize(
    "source", ["{{ c }}", "{{ a }}{{ d.missing }}", "{{ d['missing'] }}", "{{ b[5] }}", "{{ c.x }}"]
)
def test_a_missing_value_is_named(source: str) -> None:
    with pytest.raises(TemplateError) as error:
        render(source)
    assert error.value.code == "template_missing_value"


ATTACKS = {
    "class walk": "{{ a.__class__.__mro__ }}",
    "class walk by filter": "{{ a | attr('__class__') }}",
    "class walk by item": "{{ ''['__class__']['__mro__'] }}",
    "class walk by format": "{{ '{0.__class__.__mro__}'.format(a) }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "macro globals": "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "mutate the row": "{{ b.append(1) }}",
    "endless loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "huge range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "repeat": "{{ a * 1000000000 }}",
    "repeat a list": "{{ (b * 1000000000) | length }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "percent": "{{ '%1000000000d' % 3 }}",
    "percent star": "{{ '%*d' % (1000000000, 3) }}",
    "format filter": "{{ '%1000000000d' | format(3) }}",
    "format": "{{ '{:1000000000}'.format(3) }}",
    "format width": "{{ '{:{w}}'.format(3, w=1000000000) }}",
    "ljust": "{{ a.ljust(1000000000) }}",
    "center": "{{ a | center(1000000000) }}",
    "mapped center": "{{ b | map('center', 1000000000) | join }}",
    "indent": "{{ ('\n' * 10000) | indent(99999) | length }}",
    "tojson indent": "{{ d | tojson(indent=2 * 10 ** 6) }}",
    "tojson indent of text": "{{ d | tojson(indent='ab' * 10 ** 6) }}",
    "mapped tojson": "{{ [d] | map('tojson', indent=2 * 10 ** 6) | join | length }}",
    "tojson depth": "{% set n = namespace(x=[0] * 300000) %}{% for i in range(99) %}{% set n.x = [n.x] %}{% endfor %}"
    "{{ n.x | tojson(indent=16) | length }}",
    "batch": "{{ [1] | batch(6 * 10 ** 6, 0) | list | length }}",
    "slice": "{{ [1] | slice(6 * 10 ** 6) | list | length }}",
    "wordwrap": "{{ a | wordwrap(10 ** 9) }}",
    "round": "{{ 1.5 | round(10 ** 8, 'ceil') }}",
    "to bytes": "{{ (1).to_bytes(10 ** 7, 'big') | length }}",
    "zfill": "{{ a.zfill(10 ** 9) }}",
    "rjust": "{{ a.rjust(10 ** 9) }}",
    "method center": "{{ a.center(10 ** 9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10 ** 9) }}",
    "format width of text": "{{ '{:>{}}'.format(1, '10000000') | length }}",
    "many widths": "{{ ('{0:99999}' * 1000).format(1) | length }}",
    "many percent widths": "{{ ('%(k)99999d' * 1000) % d | length }}",
    "percent of a dictionary": "{{ (('%(k)s' * 1000) % dict(k='x' * 100000)) | length }}",
    "format of a dictionary": "{{ ('{0[k]}' * 1000).format(dict(k='x' * 100000)) | length }}",
    "translate": "{{ ('a' * 1000).translate({97: 'x' * 100000}) | length }}",
    "sum of lists": "{{ ([[1] * 20] * 20000) | sum(start=[]) | length }}",
    "many of a fair size": "{{ range(99999) | map('center', 9999) | list | length }}",
    "double by join": GROWING.replace("BODY", "{% set n.x = [n.x, n.x] | join %}"),
    "double by tilde": GROWING.replace("BODY", "{% set n.x = n.x ~ n.x %}"),
    "double by plus": GROWING.replace("BODY", "{% set n.x = n.x + n.x %}"),
    "double by set": GROWING.replace("BODY", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
    "square by replace": GROWING.replace("BODY", "{% set n.x = n.x | replace('a', n.x) | replace('b', n.x) %}"),
    "square by method": GROWING.replace("BODY", "{% set n.x = n.x.join(n.x | list) %}"),
    "nest lists": GROWING.replace("BODY", "{% set n.x = [n.x, n.x] %}") + "{{ n.x }}",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the caps these take hours, or all memory."""
    monkeypatch.setattr(template, "MAX_SECONDS", 0.2)
    with pytest.raises(TemplateError):
        render(ATTACKS[name])


def test_text_that_looks_like_a_format_is_no_attack() -> None:
    text = "f'{x:>{w}}' 50% * 3 {1000000}"
    assert PromptTemplate("{{ a.strip() }}{{ a | upper | lower }}", ["a"]).render({"a": text}) == text * 2


def test_json_may_be_indented() -> None:
    assert render("{{ d | tojson(indent=2) }}") == '{\n  "k": 1\n}'


def test_the_file_and_the_text_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ a }}é", encoding="utf-8")
    found = load_template(JobConfig(name="x", template_file=str(tmp_path / "t.jinja")), ["a"])
    assert found is not None and found.render({"a": "1"}) == "1é"
    for config in (JobConfig(template="x", template_file="y"), JobConfig(template_file=str(tmp_path / "none"))):
        with pytest.raises(ConfigError, match=r"job\.template_file"):
            load_template(config, ["a"])


def few_shot(
    folder: Path, text: str, template: str = "{% for e in examples %}{{ e.q }}={{ e.a }};{% endfor %}{{ a }}"
) -> str:
    (folder / "few.jsonl").write_text(text)
    found = load_template(JobConfig(name="x", template=template, few_shot_file=str(folder / "few.jsonl")), ["a"])
    assert found is not None
    return found.render({"a": "hello"})


def test_examples_from_a_file_stand_in_the_template(tmp_path: Path) -> None:
    assert few_shot(tmp_path, '{"q": "1+1", "a": 2}\n\n{"q": "{{ 7 * 7 }}", "a": null}\n'.replace("null", '""')) == (
        "1+1=2;{{ 7 * 7 }}=;hello"
    )


@pytest.mark.parametrize(
    ("text", "template", "message"),
    [
        ('{"q": 1}\n[1]\n', "{{ examples }}", "line 2: a row must be a JSON object"),
        ('{"q": 1, "q": 2}\n', "{{ examples }}", "line 1: an object has the same key twice"),
        ("\n", "{{ examples }}", "holds no examples"),
        (" " * (few_shot_module.MAX_BYTES + 1), "{{ examples }}", "over 4 MiB"),
        ('{"q": 1}\n', "{{ a }}", "does not use 'examples'"),
    ],
)
def test_examples_that_are_none_are_refused(text: str, template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        few_shot(tmp_path, text, template)


def test_examples_need_a_file_and_a_name_of_their_own(tmp_path: Path) -> None:
    config = JobConfig(name="x", template="{{ examples }}", few_shot_file=str(tmp_path / "none"))
    for columns, message in ((["a"], "No such file"), (["examples"], "has a column 'examples' too")):
        with pytest.raises(ConfigError, match=message):
            load_template(config, columns)


def test_a_template_cannot_change_the_examples_for_the_next_row(tmp_path: Path) -> None:
    with pytest.raises(TemplateError):
        few_shot(tmp_path, '{"q": "1"}', "{{ examples.append(1) }}")
