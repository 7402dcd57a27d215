"""Incremental text and stop strings, whatever the token boundaries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import save_tokenizer

from runner.text import ByteTokenizer, IncrementalDetokenizer, StopMatcher, TextTokenizer

BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@settings(max_examples=200, deadline=None)
@given(text=st.text(), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_pieces_join_to_the_whole_text(text: str, sizes: list[int], tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(text, special=False)
    detokenizer, pieces, start = IncrementalDetokenizer(tokenizer), [], 0
    while start < len(ids):
        size = sizes[start % len(sizes)]
        pieces.append(detokenizer.push(ids[start : start + size]))
        start += size
    assert "".join(pieces) + detokenizer.finish() == text


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    detokenizer = IncrementalDetokenizer(BYTES)
    first, second = "é".encode()
    assert detokenizer.push([first]) == ""
    assert detokenizer.push([second]) == "é"


def test_half_a_character_at_the_end_is_replaced() -> None:
    detokenizer = IncrementalDetokenizer(BYTES)
    assert detokenizer.push([65, 0xC3]) == ""
    assert detokenizer.finish() == "A\ufffd"


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab é", max_size=40), stops=st.lists(st.text("ab é", min_size=1, max_size=3), min_size=1, max_size=3)
)
def test_the_earliest_hit_wins_and_its_tokens_are_counted(text: str, stops: list[str]) -> None:
    hit = StopMatcher(BYTES, stops).push(list(text.encode()))
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert hit is None
        return
    seen = text[: min(ends)]  # what was written when the first stop string was complete
    start = min(seen.index(stop) for stop in stops if stop in seen)
    assert hit is not None
    assert hit.text == text[:start]
    assert hit.num_tokens == len(text[:start].encode())


def test_a_stop_string_across_tokens(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("the answer, the stop string", special=False)
    boundaries = {len(tokenizer.decode(ids[:n])) for n in range(len(ids) + 1)}
    text = "the answer, the stop string"
    start = next(at for at in range(5, 20) if at not in boundaries and at + 3 not in boundaries)
    hit = StopMatcher(tokenizer, [text[start : start + 3]]).push(ids)
    assert hit is not None and hit.text == text[:start]
    assert len(tokenizer.decode(ids[: hit.num_tokens])) >= start > len(tokenizer.decode(ids[: hit.num_tokens - 1]))


def test_the_stop_string_is_kept_when_asked() -> None:
    hit = StopMatcher(BYTES, ["END"], include_stop=True).push(list(b"abENDcd"))
    assert hit is not None and (hit.text, hit.num_tokens, hit.stop) == ("abEND", 5, "END")


def test_a_stop_string_at_once_keeps_nothing() -> None:
    hit = StopMatcher(BYTES, ["a"]).push(list(b"abc"))
    assert hit is not None and (hit.text, hit.num_tokens) == ("", 0)


def test_a_stop_string_over_two_pushes() -> None:
    matcher = StopMatcher(BYTES, ["END"])
    assert matcher.push(list(b"abE")) is None
    hit = matcher.push(list(b"NDx"))
    assert hit is not None and hit.text == "ab"


def test_finish_looks_at_what_was_held_back() -> None:
    matcher = StopMatcher(BYTES, ["\ufffd"])
    assert matcher.push([65, 0xC3]) is None
    hit = matcher.finish()
    assert hit is not None and hit.text == "A"


def test_special_tokens_are_left_out_of_the_text(tokenizer: TextTokenizer) -> None:
    ids = [*tokenizer.encode("the", special=False), 2]
    assert IncrementalDetokenizer(tokenizer).push(ids) == "the"
    assert IncrementalDetokenizer(tokenizer, skip_special_tokens=False).push(ids) == "the<|im_end|>"
