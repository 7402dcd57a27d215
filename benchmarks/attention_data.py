"""Random tensors on the GPU for benchmarks/attention.py, and the clock that times launches over them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from attention_cases import Case
from attention_shapes import BF16, DecodeShape

from runner.engine.attention import AttentionBatch, KVCache, allocate_cache

DEVICE = torch.device("cuda")
LAUNCHES = 8  # in one graph
REPLAYS = 15


def graph_ms(launch: Callable[[int], Any], launches: int = LAUNCHES) -> float:
    """Milliseconds a launch: the median replay of a graph of ``launches`` of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for index in range(launches):
            launch(index)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(launches):
            launch(index)
    times = []
    for _ in range(REPLAYS + 2):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / launches)
    return statistics.median(times[2:])


def host_us(launch: Callable[[int], Any], launches: int = 200) -> float:
    """Microseconds of Python that an eager launch takes; the launches must be short enough not to fill the queue."""
    launch(0)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for index in range(launches):
        launch(index)
    elapsed = time.perf_counter() - began
    torch.cuda.synchronize()
    return elapsed / launches * 1e6


def copy_rate() -> float:
    """TB/s of a large copy, bytes read plus bytes written: the card's practical ceiling."""
    source = torch.randn(1 << 29, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / graph_ms(lambda _: target.copy_(source), 2) / 1e9


class DecodeData:
    """Queries, caches and tables of a decode shape; caches take turns."""

    def __init__(self, shape: DecodeShape, num_caches: int) -> None:
        self.shape = shape
        lengths = shape.lengths()
        used = (-(-lengths // shape.block_size)).tolist()
        order = torch.randperm(sum(used)).to(torch.int32) + 1
        width = -(-max(used) // 16) * 16
        table = torch.zeros(shape.rows, width, dtype=torch.int32)
        for row, blocks in enumerate(order.split(used)):
            table[row, : len(blocks)] = blocks
        self.caches = [_random_cache(shape, sum(used) + 1) for _ in range(num_caches)]
        self.query = torch.randn(shape.rows, shape.heads, shape.head_dim, device=DEVICE, dtype=BF16)
        last = table[torch.arange(shape.rows), (lengths.long() - 1) // shape.block_size].long()
        self.batch = AttentionBatch(
            slot_mapping=(last * shape.block_size + (lengths - 1) % shape.block_size).to(DEVICE),
            block_table=table.to(DEVICE),
            block_size=shape.block_size,
            num_decode=shape.rows,
            rows=torch.arange(shape.rows, dtype=torch.int32, device=DEVICE),
            decode_lens=lengths.to(DEVICE),
        )


def _random_cache(shape: DecodeShape, num_blocks: int) -> KVCache:
    cache = allocate_cache(num_blocks, shape.block_size, shape.spec, BF16, DEVICE)
    cache.key.normal_()
    cache.value.normal_()
    return cache


def prefill_step(
    case: Case, shared_prefix: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, KVCache, AttentionBatch]:
    """Random tensors of a prefill case, without the answer that a check would need.

    With ``shared_prefix`` what lies before the step's tokens is the same blocks for all sequences.
    """
    spec, size = case.spec, case.block_size
    before, now = (torch.tensor(x) for x in zip(*case.prefill, strict=True))
    total = before + now
    width = int(-(-total.max() // size) + 15) // 16 * 16
    num = len(case.prefill)
    table = (torch.randperm(num * width) + 1).to(torch.int32).view(num, width)
    if shared_prefix:
        common = int(before.min()) // size
        table[:, :common] = table[0, :common]
    cache = allocate_cache(num * width + 1, size, spec, BF16, DEVICE)
    cache.key.normal_()
    cache.value.normal_()
    tokens = int(now.sum())
    query = torch.randn(tokens, spec.num_heads, spec.head_dim, device=DEVICE, dtype=BF16)
    key = torch.randn(2, tokens, spec.num_kv_heads, spec.head_dim, device=DEVICE, dtype=BF16)
    batch = AttentionBatch(
        slot_mapping=torch.zeros(tokens, dtype=torch.int64, device=DEVICE),
        block_table=table.to(DEVICE),
        block_size=size,
        num_prefill=num,
        prefill_rows=torch.arange(num, dtype=torch.int32, device=DEVICE),
        cu_seqlens_q=torch.cat((torch.zeros(1), now.cumsum(0))).to(torch.int32).to(DEVICE),
        seq_lens=total.to(torch.int32).to(DEVICE),
        max_seqlen_q=int(now.max()),
        max_seqlen_k=int(total.max()),
        fresh=not int(before.max()),
    )
    return query, key[0], key[1], cache, batch
