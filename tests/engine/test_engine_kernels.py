"""Steps of any number of rows meet no kernel that was not compiled before them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_all_kernels_of_plain_rows_are_rehearsed(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, str(HERE / "kernels_of_rows.py")]
    told = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
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
