"""OpenAI batch lines as input: every field is honoured or refused by its name, none is dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from input_support import USER, batch_line, error, render, request

from runner.text import TextTokenizer
from runner.types import Request, SamplingParams


def test_openai_batch_lines_are_accepted_as_they_are(tokenizer: TextTokenizer) -> None:
    body = {
        "model": "any",
        "messages": [USER],
        "max_completion_tokens": 9,
        "temperature": 0.3,
        "stop": "END",
        "logprobs": False,
        "n": 2,
        "logit_bias": {"5": -100},
        "stream": False,
        "user": "me",
        "seed": None,
    }
    expected = SamplingParams(max_tokens=9, temperature=0.3, stop=("END",), n=2, logit_bias=((5, -100.0),))
    made = request(render(tokenizer, batch_line(body))[0])
    assert (made.sampling, made.messages) == (expected, [USER])


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"seed": 7}, {"seed": 7}),
        ({"n": 3}, {"n": 3}),
        (
            {"top_p": 0.5, "frequency_penalty": 1, "presence_penalty": -1},
            {"top_p": 0.5, "frequency_penalty": 1.0, "presence_penalty": -1.0},
        ),
        ({"logit_bias": {"5": 3, "6": None}}, {"logit_bias": ((5, 3.0),)}),
        ({"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1}, {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1}),
        ({"model": "x", "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}, {}),
        ({"response_format": {"type": "text"}, "stream": False, "tool_choice": "auto", "top_logprobs": 0}, {}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
    ],
)
def test_a_field_of_a_batch_line_is_honoured(
    field: dict[str, Any], expected: dict[str, Any], tokenizer: TextTokenizer
) -> None:
    sampling = request(render(tokenizer, batch_line({"messages": [USER], **field}))[0]).sampling
    assert sampling == replace(SamplingParams(max_tokens=20), **expected)


@pytest.mark.parametrize(
    "field",
    [
        {"functions": [{"name": "f"}]},
        {"tool_choice": "required"},
        {"reasoning_effort": "high"},
        {"logprobs": 21},
        {"modalities": ["audio"]},
        {"prediction": {"type": "content"}},
        {"best_of": 2},
        {"n": 0},
        {"stop": [""]},
        {"temperature": "hot"},
    ],
)
def test_a_field_that_cannot_be_honoured_names_itself(field: dict[str, Any], tokenizer: TextTokenizer) -> None:
    refused = error(render(tokenizer, batch_line({"messages": [USER], **field}))[0])
    (name,) = field
    assert refused.code in ("unsupported_request", "bad_sampling")
    assert refused.message.startswith(f"body.{name}")


def test_a_rows_own_sampling_params_stand_over_its_body(tokenizer: TextTokenizer) -> None:
    row = {**batch_line({"messages": [USER], "max_tokens": 5, "seed": 1}), "sampling_params": {"max_tokens": 6}}
    assert request(render(tokenizer, row)[0]).sampling == SamplingParams(max_tokens=6, seed=1)


def test_openai_text_completions_may_hold_several_prompts(tokenizer: TextTokenizer) -> None:
    (items,) = render(tokenizer, batch_line({"prompt": ["a", "b"]}, "/v1/completions"), chat=False)
    assert [item.prompt for item in items if isinstance(item, Request)] == ["a", "b"]


def test_a_text_completion_is_raw_text_also_where_the_model_has_a_chat_template(tokenizer: TextTokenizer) -> None:
    made = request(render(tokenizer, batch_line({"prompt": "Once upon"}, "/v1/completions"))[0])
    assert (made.prompt, made.messages) == ("Once upon", None)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (batch_line({"messages": [USER], "stream": True}), "unsupported_request"),
        (batch_line({"messages": [USER], "response_format": {"type": "json_object"}}), "unsupported_request"),
        (batch_line({"messages": [USER], "nonsense": 1}), "bad_sampling"),
        (batch_line({"messages": [USER], "logprobs": True, "top_logprobs": 21}), "bad_sampling"),
        (batch_line({"prompt": "a", "logprobs": -1}, "/v1/completions"), "bad_sampling"),
        (batch_line({"messages": [USER], "logit_bias": {"999999": 1}}), "bad_sampling"),
        (batch_line({"messages": [USER]}, "/v1/embeddings"), "unsupported_request"),
        (batch_line({"messages": [USER]}, method="GET"), "unsupported_request"),
        (batch_line({}), "prompt_null"),
        (batch_line(None), "malformed_request"),
        (batch_line("{"), "malformed_request"),
    ],
)
def test_what_a_batch_line_cannot_have_is_refused_never_dropped(
    line: dict[str, Any], code: str, tokenizer: TextTokenizer
) -> None:
    assert error(render(tokenizer, line)[0]).code == code
