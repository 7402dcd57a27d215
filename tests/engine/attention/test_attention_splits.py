"""How decode rows are cut into pieces, and that every way of cutting gives the same answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_cases import Case, make_step
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from runner.engine.attention.triton_decode import DecodeConfig, TritonDecode, choose_config
from runner.engine.attention.triton_write import write_cache

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("rows", "kv_heads", "splits"),
    [(512, 8, 1), (32, 8, 1), (31, 8, 2), (16, 8, 2), (15, 8, 4), (1, 8, 32), (4, 1, 64), (1, 1, 64), (85, 3, 2)],
)
def test_the_fewest_pieces_that_fill_the_card(rows: int, kv_heads: int, splits: int) -> None:
    assert DecodeConfig().splits_of(rows, kv_heads) == splits


def test_deterministic_pieces_do_not_depend_on_the_rows() -> None:
    config = choose_config(Case().spec, torch.bfloat16, deterministic=True)
    assert len({config.splits_of(rows, 8) for rows in (1, 7, 32, 500)}) == 1


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([None, 1, 8]))
def test_the_work_space_holds_every_smaller_step(max_rows: int, kv_heads: int, fixed: int | None) -> None:
    config = DecodeConfig(splits=fixed)
    parts = config.most_parts(max_rows, kv_heads)
    assert all(rows * kv_heads * config.splits_of(rows, kv_heads) <= parts for rows in range(1, max_rows + 1))


@pytest.mark.parametrize(
    ("dtype", "head_dim", "value_dim", "group", "block_n", "num_warps"),
    [
        (torch.bfloat16, 64, 64, 3, 64, 4),
        (torch.bfloat16, 128, 128, 4, 64, 4),
        (torch.bfloat16, 192, 128, 1, 32, 4),
        (torch.bfloat16, 256, 256, 2, 32, 4),
        (torch.bfloat16, 128, 128, 64, 64, 8),
        (torch.float32, 128, 128, 4, 32, 8),
        (torch.float32, 256, 256, 8, 16, 8),
    ],
)
def test_wide_tiles_and_large_groups_are_cut_to_fit(
    dtype: torch.dtype, head_dim: int, value_dim: int, group: int, block_n: int, num_warps: int
) -> None:
    spec = Case(heads=group, kv_heads=1, head_dim=head_dim, value_dim=value_dim).spec
    config = choose_config(spec, dtype, deterministic=False)
    assert (config.block_n, config.num_warps) == (block_n, num_warps)


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig(block_n=16, splits=1, min_tiles=1),
        DecodeConfig(block_n=16, splits=2, min_tiles=1),
        DecodeConfig(block_n=16, splits=3, min_tiles=1),
        DecodeConfig(block_n=16, splits=5, min_tiles=4),
        DecodeConfig(block_n=16, splits=24, min_tiles=1),
        DecodeConfig(block_n=32, splits=8, min_tiles=2),
    ],
    ids=lambda config: f"{config.splits} of {config.min_tiles} x {config.block_n}",
)
def test_any_cut_gives_the_answer(config: DecodeConfig, window: int) -> None:
    case = Case(decode=(1, 16, 17, 130, 299), heads=4, kv_heads=2, head_dim=16, window=window, sinks=True)
    decode = TritonDecode([case.spec], max_rows=8, device=DEVICE, configs=[config])
    for seed in range(2):  # the second step finds the work space as the first one left it
        step = make_step(replace(case, seed=seed), DEVICE)
        write_cache(step.key, step.value, step.cache, step.batch.slot_mapping)
        out = decode(step.query, step.cache, step.batch, case.spec, step.sinks)
        torch.testing.assert_close(out.double(), step.expected, rtol=1e-5, atol=1e-6)


def test_more_rows_than_the_work_space_holds_are_refused() -> None:
    case = Case(decode=(3, 4, 5))
    step = make_step(case, DEVICE)
    decode = TritonDecode([case.spec], max_rows=2, device=DEVICE, configs=[DecodeConfig()])
    with pytest.raises(AssertionError, match="fewer decode rows"):
        decode(step.query, step.cache, step.batch, case.spec, None)
