"""Eight whole processes on one folder, killed at random: every row once.

That they end together is what test_launch_end_together.py shows.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.launch.fleet import SHARD, prepare, row_ids, start_runner
from tests.launch.test_launch_partitions import finish_all, wait_for_work
from tests.run.commands import digests

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

NUM_PROCESSES = 8
NUM_ROWS = 1200


@pytest.mark.parametrize("seed", range(3))
def test_eight_processes_with_random_kills_do_every_row_once(tmp_path: Path, seed: int) -> None:
    whole = prepare(tmp_path, NUM_ROWS, seconds=0.1)
    out, chance = tmp_path / "out", random.Random(seed)
    processes = [start_runner(tmp_path, "out", "auto") for _ in range(NUM_PROCESSES)]
    for _ in range(NUM_PROCESSES):
        wait_for_work(out)
        time.sleep(chance.random())
        victim = chance.randrange(NUM_PROCESSES)
        processes[victim].kill()
        processes[victim].communicate()
        processes[victim] = start_runner(tmp_path, "out", "auto")
    assert finish_all(processes) == [0] * NUM_PROCESSES
    assert digests(out) == whole
    assert sorted(row_ids(out)) == list(range(NUM_ROWS))
    assert len(list((out / "data").iterdir())) == NUM_ROWS // SHARD
