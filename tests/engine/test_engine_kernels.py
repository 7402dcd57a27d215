"""A batch that grows or shrinks meets no kernel that was not compiled before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_kernels_of_decode_steps_do_not_hang_on_the_number_of_rows(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, str(HERE / "kernels_of_rows.py")]
    told = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert told == {
        "choose_kernel": 3,  # greedy, drawn, drawn with counts
        "finish_kernel": 1,
        "survey_kernel": 2,
        "floor_kernel": 2,
        "logprobs_kernel": 1,
        "count_kernel": 1,
        "decode_kernel": 2,  # with and without a shared beginning
        "prefix_kernel": 1,
        "linear_kernel": 3,  # tiles of 16, 32 and 64 rows
    }
