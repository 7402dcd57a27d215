"""A small slice of the fuzzing; `make test-fuzz` runs a million cases."""

from __future__ import annotations

import pytest
from fuzz import fuzz

from runner.text import messages


def test_a_slice_of_the_fuzzing_finds_nothing() -> None:
    counts = fuzz(cases=6000, seconds=60, seed=1_000_000_000)
    assert set(counts) == {"fuzz_lines", "fuzz_conversations", "fuzz_sampling", "fuzz_token_ids", "fuzz_templates"}


def test_the_fuzzing_finds_an_error_that_is_not_a_documented_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_ROLES", None)
    with pytest.raises(TypeError):
        fuzz(cases=2000, seconds=60, seed=0)
