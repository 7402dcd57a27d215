"""Rows to requests: where the prompt comes from, how it is sampled, what goes wrong alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_support import USER, FileJob, batch_line, error, render, request, run_all
from tiny_text import CHAT_TEMPLATE, save_tokenizer

from runner.config import InputConfig, JobConfig
from runner.errors import ConfigError
from runner.input import Renderer
from runner.limits import MAX_BAD_PHRASES, MAX_PHRASE_TOKENS
from runner.text import TextTokenizer
from runner.types import Refused, Request, RowError, SamplingParams, SourceRow, Stage


class FixedJob(FileJob):
    """Returns, or raises, what it was made with."""

    def __init__(self, prompt: Any) -> None:
        self._prompt = prompt

    def prompt(self, row: dict[str, Any]) -> Any:
        if isinstance(self._prompt, Exception):
            raise self._prompt
        return self._prompt


def test_a_prompt_becomes_one_user_message(tokenizer: TextTokenizer) -> None:
    made = request(render(tokenizer, {"prompt": "hi"})[0])
    assert made.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert made.messages == [USER]
    assert list(made.prompt_token_ids) == tokenizer.encode_chat([USER])[1]


def test_raw_text_is_completed_as_it_is(tokenizer: TextTokenizer) -> None:
    made = request(render(tokenizer, {"prompt": "hi"}, chat=False)[0])
    assert (made.prompt, made.messages) == ("hi", None)
    assert list(made.prompt_token_ids) == tokenizer.encode("hi", special=True)


def test_the_system_prompt_stands_before_conversations_without_one(tokenizer: TextTokenizer) -> None:
    own = [{"role": "system", "content": "mine"}, USER]
    rows = render(tokenizer, {"messages": [USER]}, {"messages": own}, system_prompt="yours")
    assert [request(row).messages[0]["content"] for row in rows] == ["yours", "mine"]  # type: ignore[index]


def test_an_assistant_message_at_the_end_is_continued(tokenizer: TextTokenizer) -> None:
    made = request(render(tokenizer, {"messages": [USER, {"role": "assistant", "content": "Sure"}]})[0])
    assert made.prompt is not None and made.prompt.endswith("assistant\nSure")


def test_text_parts_are_joined_and_images_refused(tokenizer: TextTokenizer) -> None:
    def row(*parts: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": list(parts)}]}

    text, image = render(
        tokenizer, row({"type": "text", "text": "a"}, {"type": "text", "text": "b"}), row({"type": "image_url"})
    )
    assert request(text).messages == [{"role": "user", "content": "a\nb"}]
    assert error(image).code == "malformed_messages"


@pytest.fixture(scope="module")
def tool_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    template = CHAT_TEMPLATE.replace("{% for", "{% for t in tools or [] %}[{{ t.type }}]{% endfor %}{% for", 1)
    return TextTokenizer(save_tokenizer(tmp_path_factory.mktemp("tools"), template))


def test_tools_reach_the_template_and_are_refused_where_it_has_no_place_for_them(
    tokenizer: TextTokenizer, tool_tokenizer: TextTokenizer
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": None}}]
    rows = [{"messages": [USER], "tools": tools}, batch_line({"messages": [USER], "tools": tools})]
    for row in rows:
        made = request(render(tool_tokenizer, row)[0])
        assert made.prompt is not None and made.prompt.startswith("[function]<|im_start|>user")
        assert error(render(tokenizer, row)[0]).code == "no_tools"


def test_a_conversation_and_tools_may_be_json_text(tool_tokenizer: TextTokenizer) -> None:
    good, bad = render(
        tool_tokenizer,
        {"messages": '[{"role": "user", "content": "hi"}]', "tools": '[{"type": "function"}]'},
        {"messages": "[", "tools": None},
    )
    assert request(good).messages == [USER]
    assert error(bad).code == "malformed_request"


@pytest.mark.parametrize("role", [["user"], {"user": 1}, 1, None, "me"])
def test_a_role_that_is_none_costs_only_its_row(tokenizer: TextTokenizer, role: Any) -> None:
    bad, good = render(tokenizer, {"messages": [{"role": role, "content": "x"}]}, {"messages": [USER]})
    assert error(bad).code == "malformed_messages" and "messages[0].role" in error(bad).message
    assert request(good).messages == [USER]


def test_a_template_takes_precedence_over_the_job(tokenizer: TextTokenizer) -> None:
    job = FixedJob(AssertionError("never asked"))
    made = request(render(tokenizer, {"topic": "cats"}, job=job, template="On {{ topic }}", chat=False)[0])
    assert made.prompt == "On cats"


def test_a_column_of_many_shapes_is_seen_as_the_source_holds_it(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    values = ['say "hi"', ["a", "b"], {"k": 1}] * 4
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps({"x": value}) for value in values))
    rows, rendered, _ = run_all(file, tokenizer, template="{{ x }}", chat=False)
    assert [request(items).prompt for items in rendered] == [str(value) for value in values]
    assert {row.values["x"] for row in rows if isinstance(row, SourceRow)} == {
        '"say \\"hi\\""',
        '["a","b"]',
        '{"k":1}',
    }


def test_sampling_of_many_shapes_still_overrides(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    given = [{"stop": "x"}, {"stop": ["x"]}] * 4
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps({"prompt": "a", "sampling_params": value}) for value in given))
    _, rendered, _ = run_all(file, tokenizer)
    assert {request(items).sampling.stop for items in rendered} == {("x",)}


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n\n{"prompt": null}\n', 3),
        ("rows.jsonl", '{"prompt": "a"}\n{"x": [1]}\n', 2),
        ("rows.csv", 'prompt\n"a\nb"\n' + "z" * 300 + "\n", 4),
    ],
)
def test_an_error_of_rendering_says_where_its_row_stands(
    name: str, text: str, line: int, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    (tmp_path / name).write_text(text)
    _, rendered, _ = run_all(tmp_path / name, tokenizer, chat=False)
    assert (error(rendered[1]).file, error(rendered[1]).line) == (str(tmp_path / name), line)


def test_an_error_of_rendering_a_parquet_row_names_the_file(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", None]}), file)
    _, rendered, _ = run_all(file, tokenizer)
    assert (error(rendered[1]).file, error(rendered[1]).line) == (str(file), None)


def test_chat_template_kwargs_reach_the_template(tokenizer: TextTokenizer) -> None:
    made = request(render(tokenizer, {"prompt": "hi"}, chat_template_kwargs={"no_thinking": True})[0])
    assert made.prompt is not None and made.prompt.endswith("</think>")


def test_a_job_drops_splits_and_refuses(tokenizer: TextTokenizer) -> None:
    assert render(tokenizer, {"x": 1}, job=FixedJob(None)) == [[]]
    (split,) = render(tokenizer, {"x": 1}, job=FixedJob(["a", [USER], [5, 6]]))
    assert [item.request_index for item in split] == [0, 1, 2]
    assert isinstance(split[2], Request) and list(split[2].prompt_token_ids) == [5, 6]
    refused = error(render(tokenizer, {"x": 1}, job=FixedJob(Refused("too dull", "dull")))[0])
    assert (refused.code, refused.message, refused.stage, refused.source) == (
        "dull",
        "too dull",
        Stage.RENDER,
        {"x": 1},
    )


def test_a_bad_part_of_a_split_row_is_refused_alone(tokenizer: TextTokenizer) -> None:
    (items,) = render(tokenizer, {"x": 1, "sampling_params": {"n": 3}}, job=FixedJob(["a", 5, "b"]))
    assert [type(item) for item in items] == [Request, RowError, Request]
    bad = items[1]
    assert isinstance(bad, RowError) and (bad.code, bad.request_index, bad.num_samples) == ("prompt_type", 1, 3)


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no message")


def test_an_error_without_a_message_costs_only_its_row(tokenizer: TextTokenizer) -> None:
    failed = error(render(tokenizer, {"x": 1}, job=FixedJob(MuteError()))[0])
    assert (failed.code, failed.message) == (
        "job_failed",
        "prompt(row) raised MuteError (its message failed with ValueError)",
    )


def test_a_job_that_raises_costs_only_its_row(tokenizer: TextTokenizer) -> None:
    failed = error(render(tokenizer, {"x": 1}, job=FixedJob(KeyError("topic")))[0])
    assert failed.code == "job_failed" and "KeyError: 'topic'" in failed.message


def test_a_configuration_error_of_the_job_ends_the_run(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match="prompt_column"):
        render(tokenizer, {"topic": "x"})


def test_token_ids_must_be_in_the_vocabulary(tokenizer: TextTokenizer) -> None:
    for ids in ([-1], [tokenizer.num_tokens]):
        assert error(render(tokenizer, {"x": 1}, job=FixedJob(ids))[0]).code == "bad_token_ids"


def test_text_that_the_tokenizer_cannot_take_costs_only_its_row(tokenizer: TextTokenizer) -> None:
    bad, good = render(tokenizer, {"prompt": "\ud800"}, {"prompt": "hi"}, chat=False)
    assert (error(bad).code, error(bad).stage) == ("tokenizer_failed", Stage.TOKENIZE)
    assert request(good).prompt == "hi"


def test_a_row_overrides_the_jobs_sampling(tokenizer: TextTokenizer) -> None:
    given = {"temperature": 0.5, "top_k": None, "stop": ["x"], "max_tokens": 7}
    changed, plain, text = render(
        tokenizer,
        {"prompt": "a", "sampling_params": given},
        {"prompt": "a", "sampling_params": None},
        {"prompt": "a", "sampling_params": '{"seed": 4}'},
    )
    assert request(changed).sampling == SamplingParams(max_tokens=7, temperature=0.5, stop=("x",))
    assert request(plain).sampling == SamplingParams(max_tokens=20)
    assert request(text).sampling.seed == 4


def test_bad_words_of_one_token_become_biases(tokenizer: TextTokenizer) -> None:
    (the,), (spaced,) = tokenizer.encode("the", special=False), tokenizer.encode(" the", special=False)
    never = float("-inf")
    row, none = render(
        tokenizer,
        {"prompt": "a", "sampling_params": {"bad_words": ["the"], "logit_bias": {the: 4, 7: 1}}},
        {"prompt": "a", "sampling_params": {"bad_words": []}},
    )
    assert dict(request(row).sampling.logit_bias) == {the: never, spaced: never, 7: 1.0}
    assert request(row).sampling.bad_words == ()
    assert request(none).sampling.logit_bias == ()


def test_bad_words_of_several_tokens_become_ids_with_and_without_a_space(tokenizer: TextTokenizer) -> None:
    bare, spaced = (tuple(tokenizer.encode(text, special=False)) for text in ("zebra", " zebra"))
    assert (len(bare), len(spaced), bare == spaced) == (5, 6, False)
    twice, ending, long, many = render(
        tokenizer,
        {"prompt": "a", "sampling_params": {"bad_words": ["zebra", " zebra", "zebra"]}},
        {"prompt": "a", "sampling_params": {"bad_words": ["zebra", "a"]}},
        {"prompt": "a", "sampling_params": {"bad_words": ["zz" * MAX_PHRASE_TOKENS]}},
        {"prompt": "a", "sampling_params": {"bad_words": [f"z{i}" for i in range(100, 100 + MAX_BAD_PHRASES)]}},
    )
    assert request(twice).sampling.bad_words == (bare, spaced)
    (a,) = tokenizer.encode("a", special=False)
    assert a == bare[-1]
    assert request(ending).sampling.bad_words == ()  # their last token is never written at all
    assert dict(request(ending).sampling.logit_bias)[a] == float("-inf")
    assert error(long).code == error(many).code == "bad_sampling"
    assert re.search(r"sampling_params\.bad_words='zz.*' is \d+ tokens of this model; 1 to", error(long).message)
    assert f"at most {MAX_BAD_PHRASES}" in error(many).message


def test_the_jobs_own_bad_words_are_refused_at_once_and_a_rows_replace_them(tokenizer: TextTokenizer) -> None:
    def renderer(*words: str) -> Renderer:
        params = SamplingParams(bad_words=words)
        return Renderer(FileJob(), tokenizer, JobConfig(name="t"), InputConfig(path="x"), params, None, ["prompt"])

    with pytest.raises(ConfigError, match=r"sampling\.bad_words='zz"):
        renderer("zz" * MAX_PHRASE_TOKENS)
    plain, own = renderer("\x01").render(
        [SourceRow(0, {"prompt": "a"}), SourceRow(1, {"prompt": "a", "sampling_params": {"bad_words": ["\x02"]}})]
    )
    ids = [tokenizer.encode(text, special=False)[0] for text in ("\x01", "\x02")]
    assert [[token for token, _ in request(items).sampling.logit_bias] for items in (plain, own)] == [
        [ids[0]],
        [ids[1]],
    ]


def test_a_row_of_several_samples_stands_for_all_of_them(tokenizer: TextTokenizer) -> None:
    long = error(render(tokenizer, {"prompt": "z" * 99, "sampling_params": {"n": 4}}, max_model_len=50)[0])
    assert (long.code, long.num_samples) == ("prompt_too_long", 4)


def test_a_clamped_answer_keeps_its_minimum_within_the_room(tokenizer: TextTokenizer) -> None:
    row = {"prompt": "z" * 39, "sampling_params": {"min_tokens": 15}}
    sampling = request(render(tokenizer, row, max_model_len=50, chat=False)[0]).sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (10, 10)


def rendered(tokenizer: TextTokenizer, row: dict[str, Any], **columns: str | None) -> Request:
    config = InputConfig(path="x", **columns)  # type: ignore[arg-type]
    params = SamplingParams(max_tokens=20)
    renderer = Renderer(FileJob(), tokenizer, JobConfig(name="t"), config, params, None, list(row))
    return request(renderer.render([SourceRow(0, row)])[0])


def test_the_column_of_a_rows_sampling_is_named_or_none(tokenizer: TextTokenizer) -> None:
    row = {"prompt": "a", "sampling_params": {"max_tokens": 3}, "own": {"max_tokens": 4}}
    assert rendered(tokenizer, row).sampling.max_tokens == 3
    assert rendered(tokenizer, row, sampling_column="own").sampling.max_tokens == 4
    assert rendered(tokenizer, row, sampling_column=None).sampling.max_tokens == 20


@pytest.mark.parametrize(
    ("columns", "setting", "warnings"),
    [
        (["row_id", "request_index", "sample_index"], {}, 1),
        (["one_row_id", "one_request_index", "one_sample_index"], {}, 1),
        (["row_id", "request_index", "one_sample_index"], {}, 0),
        (["row_id", "request_index", "sample_index"], {"sampling_column": None}, 0),
        (["row_id", "request_index", "sample_index", "own"], {"sampling_column": "own"}, 0),
    ],
)
def test_sampling_that_a_run_before_left_is_warned_of(
    columns: list[str], setting: dict[str, Any], warnings: int, tokenizer: TextTokenizer, caplog: Any
) -> None:
    row = {**dict.fromkeys(columns), "prompt": "a", "sampling_params": {"max_tokens": 3}}
    assert rendered(tokenizer, row, **setting).sampling.max_tokens == (20 if setting else 3)
    assert caplog.text.count("input.sampling_column=null takes this run's settings instead") == warnings
