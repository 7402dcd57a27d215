"""Packing, admission, and the pool of edit rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampler_help import packed

from runner.engine.sampler import SamplingState, bias_entries, needs_edits, pack
from runner.errors import ConfigError
from runner.limits import MAX_STOP_IDS
from runner.types import SamplingParams

EMPTY = torch.empty(0, dtype=torch.int32)
NO_BIAS = bias_entries(SamplingParams())


def test_admit_sets_the_slots_it_names() -> None:
    state = SamplingState(4, 100, "cpu")
    params = [SamplingParams(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1), SamplingParams(top_k=-1, min_tokens=2)]
    state.admit(torch.tensor([3, 1], dtype=torch.int32), packed(params, [7, -2], (9, 8), 10))
    assert state.temperature.tolist() == [0, 1.0, 0, 0.5, 0]
    assert state.top_k.tolist() == [0, 0, 0, 3, 0]
    assert state.top_p.tolist() == pytest.approx([1, 1, 1, 0.9, 1])
    assert state.min_p.tolist() == pytest.approx([0, 0, 0, 0.1, 0])
    assert state.stop_ids[3].tolist() == [8, 9] + [-1] * (MAX_STOP_IDS - 2)
    assert state.stop_ids[4].tolist() == [-1] * MAX_STOP_IDS
    assert state.edit_row.tolist() == [-1] * 5


def test_pack_keeps_all_64_bits_of_a_seed() -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63), 0x12345678_9ABCDEF0):
        row = pack(SamplingParams(), seed, (), 0)
        assert int(row["seed_hi"]) << 32 | int(row["seed_lo"]) & 0xFFFFFFFF == seed


def test_pack_refuses_more_stop_ids_than_fit() -> None:
    fits = tuple(range(MAX_STOP_IDS))
    assert pack(SamplingParams(stop_token_ids=fits), 0, fits, 0)["stop_ids"].tolist() == list(fits)
    with pytest.raises(ConfigError, match="stop_token_ids"):
        pack(SamplingParams(stop_token_ids=fits), 0, (99,), 0)


def test_needs_edits() -> None:
    assert not needs_edits(SamplingParams(top_p=0.5, logprobs=3))
    for params in (
        SamplingParams(repetition_penalty=1.1),
        SamplingParams(presence_penalty=0.1),
        SamplingParams(frequency_penalty=0.1),
        SamplingParams(logit_bias=((1, 1.0),)),
        SamplingParams(bad_words=("no",)),
    ):
        assert needs_edits(params)


def test_bad_words_win_over_bias() -> None:
    ids, values = bias_entries(SamplingParams(logit_bias=((4, 1.0), (5, 2.0))), (5, 6))
    assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == {4: 1.0, 5: -np.inf, 6: -np.inf}


def test_edit_rows_are_allocated_when_asked_for_and_reused() -> None:
    state = SamplingState(64, 10, "cpu")
    assert state.edits.counts is None and state.edits.bias is None
    penalised = SamplingParams(frequency_penalty=1.0)
    state.load_edits(0, penalised, EMPTY, torch.tensor([1]), NO_BIAS)
    assert state.edits.bias is None
    for slot in range(1, 65):
        state.load_edits(slot, penalised, torch.tensor([slot % 10]), EMPTY, NO_BIAS)
    rows = state.edit_row.tolist()
    assert sorted(rows) == list(range(65))
    assert state.edits.counts.shape == (66, 10)  # one row is nobody's
    assert state.edits.counts[rows[0]].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    generation = state.edits.generation
    for slot in (5, 9):
        state.retire(slot)
        state.admit(torch.tensor([slot]), packed([SamplingParams()], [0], (), 0))
        state.retire(slot)
    state.load_edits(5, penalised, EMPTY, EMPTY, NO_BIAS)
    assert state.edits.counts[state.edit_row[5]].tolist() == [0] * 10
    assert state.edits.generation == generation
    assert state.edit_row[9] == -1


def test_growth_keeps_running_rows_and_tells_graphs() -> None:
    state = SamplingState(20, 10, "cpu")
    biased = SamplingParams(logit_bias=((2, 1.5),), presence_penalty=1.0)
    state.load_edits(0, biased, torch.tensor([7]), torch.tensor([7, 7]), bias_entries(biased))
    generation = state.edits.generation
    for slot in range(1, 12):
        state.load_edits(slot, SamplingParams(presence_penalty=1.0), EMPTY, EMPTY, NO_BIAS)
    assert state.edits.generation > generation
    row = state.edit_row[0]
    assert state.edits.counts[row].tolist() == [0, 0, 0, 0, 0, 0, 0, 5, 0, 0]
    assert state.edits.bias[row].tolist() == [0, 0, 1.5, 0, 0, 0, 0, 0, 0, 0]


def test_a_reused_row_forgets_the_bias() -> None:
    state = SamplingState(1, 10, "cpu")
    biased = SamplingParams(logit_bias=((2, 1.5),))
    state.load_edits(0, biased, EMPTY, EMPTY, bias_entries(biased))
    state.retire(0)
    state.load_edits(0, SamplingParams(presence_penalty=1.0), EMPTY, EMPTY, NO_BIAS)
    assert not state.edits.bias[state.edit_row[0]].any()
    for token in (3, 4):
        state.load_edits(0, biased, EMPTY, EMPTY, (np.array([token]), np.array([2.0], dtype=np.float32)))
    assert state.edits.bias[state.edit_row[0]].nonzero().tolist() == [[4]]
