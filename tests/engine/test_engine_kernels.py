"""Steps of any number of rows meet no kernel that was not compiled before them."""

from __future__ import annotations

from pathlib import Path

from triton_interpreter import told_by


def test_all_kernels_of_plain_rows_are_rehearsed(tmp_path: Path) -> None:
    told = told_by(Path(__file__).with_name("kernels_of_rows.py"), tmp_path)
    assert told == {
        "choose_kernel": [2, 1],  # greedy, drawn; drawn with counts
        "finish_kernel": [1, 0],
        "survey_kernel": [1, 1],
        "floor_kernel": [1, 1],
        "logprobs_kernel": [0, 1],
        "count_kernel": [0, 1],
        "decode_kernel": [2, 0],  # with and without a shared beginning
        "prefix_kernel": [1, 0],
        "prefill_kernel": [2, 0],  # from the cache or not
        "_write_kernel": [2, 0],  # of few tokens or many
        "linear_kernel": [3, 0],  # tiles of 16, 32 and 64 rows
    }
