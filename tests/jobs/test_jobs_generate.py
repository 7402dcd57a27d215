"""Which column the plain job asks by."""

from __future__ import annotations

import pytest

from jobs.generate import Job
from runner.config import InputConfig
from runner.errors import ConfigError
from runner.types import Refused

MESSAGES = [{"role": "user", "content": "hi"}]


def test_messages_go_before_a_prompt_that_nobody_named() -> None:
    job = Job.from_config(InputConfig(path="x"))
    assert job.prompt({"prompt": "a", "messages": MESSAGES}) == MESSAGES
    assert job.prompt({"prompt": "a", "messages": None}) == "a"


def test_a_prompt_column_that_was_named_goes_before_messages() -> None:
    job = Job.from_config(InputConfig(path="x", prompt_column="question"))
    assert job.prompt({"question": "a", "messages": MESSAGES}) == "a"
    with pytest.raises(Refused, match="question is null"):
        job.prompt({"question": None, "messages": MESSAGES})


def test_two_named_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"input\.prompt_column=q and input\.messages_column=m are both set"):
        Job.from_config(InputConfig(path="x", prompt_column="q", messages_column="m"))


@pytest.mark.parametrize("other", ["prompt_column", "messages_column"])
def test_ids_and_another_named_column_are_refused(other: str) -> None:
    with pytest.raises(ConfigError, match=rf"input\.{other}=q and input\.prompt_token_ids_column=i are both set"):
        Job.from_config(InputConfig(path="x", prompt_token_ids_column="i", **{other: "q"}))
