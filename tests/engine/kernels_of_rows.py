"""Launches the kernels of steps of all sizes for a card that is not there: writes how many there are of each.

For each kernel two numbers: of what the rehearsal launches, and of what steps launch beside that.

A program of its own, because Triton's interpreter, which the tests run in, is chosen once a process. Nothing is
compiled: Triton asks a hook first.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from runner.engine import rehearsal
from runner.engine.attention.metadata import AttentionBatch, AttentionSpec, SharedPrefix, allocate_cache
from runner.engine.attention.triton_backend import TritonAttention
from runner.engine.linear.few_rows import MAX_ROWS, few_rows_linear
from runner.engine.sampler import LogprobsBuffer, SamplingState, Variant
from runner.engine.sampler.triton_sampler import TritonSampler
from runner.engine.scheduler_config import SchedulerConfig
from runner.types import SamplingParams

MOST_ROWS, VOCABULARY = 1100, 128_256
BF16 = torch.bfloat16
SPEC = AttentionSpec(32, 8, 128, 128, 0.1)
WEIGHT = torch.empty(32_768, 1024, dtype=BF16)


class NoCard:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def sample_all() -> None:
    state = SamplingState(MOST_ROWS, VOCABULARY, "cpu")
    none = np.empty(0, np.int64), np.empty(0, np.float32)
    ids = torch.zeros(1, dtype=torch.int64)
    state.load_edits(0, SamplingParams(presence_penalty=1.0), ids, ids, none)
    sampler = TritonSampler()
    logits = torch.empty(MOST_ROWS, VOCABULARY, dtype=BF16)
    rows = torch.zeros(MOST_ROWS, dtype=torch.int32)
    for count in range(1, MOST_ROWS + 1):
        asked = logits[:count], rows[:count], rows[:count], state
        for variant in (Variant.GREEDY, Variant.PLAIN):
            sampler.sample(*asked, variant)
        sampler.sample(*asked, Variant.FULL, LogprobsBuffer.empty(count, 3, torch.device("cpu")))


def attend_all() -> None:
    backend = TritonAttention([SPEC], MOST_ROWS, torch.device("cpu"), BF16)
    cache = allocate_cache(2, 16, SPEC, BF16, "cpu")
    ints = torch.zeros(MOST_ROWS + 1, dtype=torch.int32)
    for count in range(1, MOST_ROWS + 1):
        query, key = (torch.empty(count, heads, 128, dtype=BF16) for heads in (32, 8))
        for prefix in (None, SharedPrefix(ints[:8], ints[:1], ints)):
            table = torch.zeros(MOST_ROWS + 1, 64, dtype=torch.int32)
            rows = ints[:count]
            batch = AttentionBatch(rows.long(), table, 16, count, rows, rows, prefix=prefix)
            backend.attend(query, key, key, cache, batch, SPEC)
        prompts = AttentionBatch(
            rows.long(),
            table,
            16,
            num_prefill=1,
            prefill_rows=rows,
            cu_seqlens_q=ints,
            seq_lens=rows,
            max_seqlen_q=count,
        )
        backend.attend(query, key, key, cache, prompts, SPEC)


def multiply_all() -> None:
    for count in range(1, MAX_ROWS + 1):
        few_rows_linear(torch.empty(count, 1024, dtype=BF16), WEIGHT, None)


def rehearse() -> None:
    backend = TritonAttention([SPEC], MOST_ROWS, torch.device("cpu"), BF16)
    config = SchedulerConfig(MOST_ROWS, 16_384, 1024, 16, 2, share_reads=True)
    rehearsal.load_sampler = lambda _: TritonSampler()  # type: ignore[assignment]
    for call in rehearsal.kernel_calls(backend, config, VOCABULARY):
        call()
    for count in rehearsal._WIDE_ROWS:
        few_rows_linear(torch.empty(count, 1024, dtype=BF16), WEIGHT, None)


if __name__ == "__main__":
    found: dict[str, set[str]] = defaultdict(set)

    def note(*, key: Any, fn: Any, **_: Any) -> bool:
        found[fn.name].add(str(key))
        return True  # leave it at that

    triton.runtime.driver.set_active(NoCard())
    knobs.runtime.jit_cache_hook = note
    rehearse()
    rehearsed = {name: len(keys) for name, keys in found.items()}
    sample_all()
    attend_all()
    multiply_all()
    counts = {name: [rehearsed.get(name, 0), len(keys) - rehearsed.get(name, 0)] for name, keys in found.items()}
    sys.stdout.write(json.dumps(counts))
