"""Loading jobs: registered ones, the user's own file, and every way in which that file can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import jobs.generate
from jobs import REGISTERED, load_job
from runner.config import InputConfig, JobConfig
from runner.errors import ConfigError
from runner.types import Completion, FinishReason, Refused


def completion(text: str = "an answer", finish_reason: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(0, 0, 0, text, finish_reason, None, prompt_tokens=1, completion_tokens=1, seed=0)


@pytest.fixture
def write(tmp_path: Path):
    def write(source: str, name: str = "my_job.py") -> JobConfig:
        path = tmp_path / name
        path.write_text(source)
        return JobConfig(name="mine", module=str(path))

    return write


@pytest.mark.parametrize("kind", REGISTERED)
def test_every_registered_job_loads(kind: str) -> None:
    job = load_job(JobConfig(name=kind, kind=kind))
    assert callable(job.prompt)
    assert len(job.code) == 64


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"job\.kind=generat: .*did you mean generate"):
        load_job(JobConfig(name="x", kind="generat"))


def test_unknown_kind_without_a_neighbour_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="generate, synthetic_data"):
        load_job(JobConfig(name="x", kind="zzz"))


def test_parse_cannot_change_the_row(write) -> None:
    job = load_job(write("def prompt(row): ...\ndef parse(row, completion):\n    row['a'].append(row.pop('b'))\n"))
    row = {"a": [1], "b": 2}
    assert job.parse(row, completion()) is None
    assert row == {"a": [1], "b": 2}


def test_parse_cannot_change_the_completion(write) -> None:
    job = load_job(write("def prompt(row): ...\ndef parse(row, c):\n    c.text = 5\n    c.messages.clear()\n"))
    given = completion("an answer")
    given.messages = [{"role": "user", "content": "a question"}]
    assert job.parse({}, given) is None
    assert (given.text, given.messages) == ("an answer", [{"role": "user", "content": "a question"}])


def test_functions_of_a_users_file(write) -> None:
    job = load_job(
        write(
            "columns = {'length': 'int64'}\n"
            "def prompt(row): return row['q'] + '?'\n"
            "def parse(row, completion): return {'length': len(completion.text)}\n"
        )
    )
    assert job.prompt({"q": "why"}) == "why?"
    assert job.parse({}, completion("abc")) == {"length": 3}
    assert job.columns == {"length": "int64"}


def test_a_job_class_of_a_users_file(write) -> None:
    job = load_job(
        write(
            "class Job:\n"
            "    columns = {'a': 'string'}\n"
            "    def prompt(self, row): return 'p'\n"
            "    def parse(self, row, completion): return {'a': completion.text}\n"
        )
    )
    assert job.prompt({}) == "p"
    assert job.parse({}, completion("t")) == {"a": "t"}


def test_the_imported_protocol_is_not_taken_for_the_users_job(write) -> None:
    job = load_job(write("from runner.types import Job\ndef prompt(row): return 'mine'\n"))
    assert job.prompt({}) == "mine"


def test_prompt_alone_is_enough(write) -> None:
    job = load_job(write("def prompt(row): return 'p'\n"))
    assert job.columns == {}
    assert job.parse({}, completion()) == {}


def test_dataclasses_with_string_annotations_work_in_a_users_file(write) -> None:
    job = load_job(
        write(
            "from __future__ import annotations\n"
            "from dataclasses import dataclass\n"
            "@dataclass\n"
            "class Point:\n    x: int = 1\n"
            "def prompt(row): return str(Point().x)\n"
        )
    )
    assert job.prompt({}) == "1"


def test_a_users_file_may_import_its_neighbour(write, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "neighbour_of_my_job.py").write_text("WORD = 'hello'\n")
    job = load_job(write("from neighbour_of_my_job import WORD\ndef prompt(row): return WORD\n"))
    assert job.prompt({}) == "hello"


def test_a_relative_path_counts_from_the_current_folder(write, tmp_path: Path, monkeypatch) -> None:
    write("def prompt(row): return 'p'\n")
    monkeypatch.chdir(tmp_path)
    assert load_job(JobConfig(name="x", module="my_job.py")).prompt({}) == "p"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def prompt(row:\n", r"line 1: syntax error: "),
        ("x = 1\ny = = 2\n", r"line 2: syntax error: "),
        ("import no_such_package_here\n", r"line 1: ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", r"line 2: ZeroDivisionError"),
        ("x = 1\n", r"defines no prompt\(row\)"),
        ("prompt = 'a string'\n", r"prompt is str; make it a function prompt\(row\)"),
        ("def prompt(row): ...\nparse = 3\n", r"parse is int; make it a function parse\(row, completion\)"),
        ("def prompt(row): ...\ncolumns = {'a': 'string'}\n", r"declares columns but no parse"),
        ("def prompt(row): ...\ndef parse(row, c): ...\ncolumns = ['a']\n", r"columns=\['a'\]: write names and types"),
        ("def prompt(row): ...\ndef parse(row, c): ...\ncolumns = {'a': int}\n", r"write names and types"),
        ("class Job:\n    def __init__(self): raise ValueError('boom')\n", r"Job\(\) failed: ValueError: boom"),
        ("import sys\nsys.exit(3)\n", r"line 2: SystemExit: 3"),
        ("class Job:\n    def __init__(self): raise SystemExit(3)\n", r"Job\(\) failed: SystemExit: 3"),
    ],
)
def test_a_broken_file_is_refused_with_the_key_and_the_fix(write, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(write(source))
    assert str(caught.value).startswith("job.module=")
    assert "\n" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"job\.module=x{300}: .*too long"):
        load_job(JobConfig(name="x", module="x" * 300))


@pytest.mark.parametrize("name", ["absent.py", "."])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"job\.module=.*: no such file"):
        load_job(JobConfig(name="x", module=name))


def test_a_template_replaces_the_prompt_function(write) -> None:
    config = write("columns = {'n': 'int64'}\ndef parse(row, completion): return {'n': 1}\n")
    config.template = "{{ q }}"
    assert load_job(config).parse({}, completion()) == {"n": 1}


def test_undeclared_value_is_refused_with_the_line_to_add(write) -> None:
    job = load_job(write("def prompt(row): return ''\ndef parse(row, completion): return {'extra': 1}\n"))
    line = r"parse returned 'extra'; declare it: columns = \{\"extra\": \"string\"\}"
    with pytest.raises(Refused, match=line) as caught:
        job.parse({}, completion())
    assert caught.value.code == "parse_column"


def test_a_value_that_is_no_dict_is_refused(write) -> None:
    job = load_job(write("def prompt(row): return ''\ndef parse(row, completion): return 'text'\n"))
    with pytest.raises(Refused, match="parse returned str; return a dict or None") as caught:
        job.parse({}, completion())
    assert caught.value.code == "parse_type"


def test_missing_value_is_null_and_none_drops(write) -> None:
    job = load_job(
        write(
            "columns = {'a': 'string', 'b': 'string'}\n"
            "def prompt(row): return ''\n"
            "def parse(row, completion): return None if row['drop'] else {'b': 'x'}\n"
        )
    )
    assert job.parse({"drop": False}, completion()) == {"a": None, "b": "x"}
    assert job.parse({"drop": True}, completion()) is None


def test_an_exit_in_a_job_is_an_error_of_its_row(write) -> None:
    job = load_job(write("import sys\ndef prompt(row): sys.exit(3)\ndef parse(row, completion): sys.exit('no')\n"))
    with pytest.raises(RuntimeError, match=r"the job called sys\.exit\(3\)"):
        job.prompt({})
    with pytest.raises(RuntimeError, match=r"the job called sys\.exit\('no'\)"):
        job.parse({}, completion())


def test_an_error_beside_exception_is_one_of_its_row(write) -> None:
    job = load_job(write("import asyncio\ndef prompt(row): raise asyncio.CancelledError('late')\n"))
    with pytest.raises(RuntimeError, match="the job raised CancelledError: late"):
        job.prompt({})


def test_an_interrupt_is_no_error_of_a_row(write) -> None:
    job = load_job(write("def prompt(row): raise KeyboardInterrupt\n"))
    with pytest.raises(KeyboardInterrupt):
        job.prompt({})


def test_code_is_the_hash_of_the_source_and_of_nothing_else(write) -> None:
    source = "def prompt(row): return 'p'\n"
    first, moved = load_job(write(source)), load_job(write(source, "other_name.py"))
    changed = load_job(write(source + "# a comment\n"))
    assert first.code == hashlib.sha256(source.encode()).hexdigest()
    assert first.code == moved.code
    assert first.code != changed.code


def test_code_of_a_registered_job_is_its_own_file() -> None:
    source = Path(jobs.generate.__file__).read_bytes()
    assert load_job(JobConfig(name="x")).code == hashlib.sha256(source).hexdigest()


def generate(**columns: str):
    return load_job(JobConfig(name="x", kind="generate"), InputConfig(path="rows.jsonl", **columns))


def test_generate_takes_the_prompt_as_it_is() -> None:
    assert generate().prompt({"prompt": "  hi\n", "other": 1}) == "  hi\n"
    assert generate().prompt({"prompt": ""}) == ""
    assert generate(prompt_column="text").prompt({"text": "hi", "prompt": "not this"}) == "hi"


def test_generate_prefers_a_conversation_where_the_row_has_one() -> None:
    chat = [{"role": "user", "content": "hi"}]
    assert generate().prompt({"messages": chat, "prompt": "p"}) == chat
    assert generate().prompt({"messages": None, "prompt": "p"}) == "p"
    assert generate(messages_column="chat").prompt({"chat": chat}) == chat


@pytest.mark.parametrize(
    ("row", "code"),
    [({"prompt": None}, "prompt_null"), ({"prompt": 3}, "prompt_type"), ({"messages": None}, "prompt_null")],
)
def test_generate_refuses_a_row_without_a_text(row: dict, code: str) -> None:
    with pytest.raises(Refused) as caught:
        generate().prompt(row)
    assert caught.value.code == code


def test_generate_refuses_an_input_that_has_neither_column() -> None:
    with pytest.raises(ConfigError, match=r"input\.prompt_column=prompt: the rows have a, b; .*job\.template"):
        generate().prompt({"a": 1, "b": 2})
