"""Runs our kernels once before the first row, on memory that is nobody's, so that no row waits for Triton.

Triton takes up to seconds for a kernel that it has not compiled before, and lets other threads run meanwhile: each
kernel is called from a thread of its own, while the engine measures its memory and torch's compiler works.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import nn

from runner.engine.attention import AttentionBackend, AttentionBatch, AttentionSpec, allocate_cache
from runner.engine.attention.metadata import SharedPrefix
from runner.engine.linear.wide import is_wide, wide_linear
from runner.engine.sampler import SamplingState, Variant, load_sampler

_MOST_THREADS = 8
_MANY_TOKENS = 2048  # the cache is written by another kernel for so many
_WIDE_ROWS = 2, 17, 33  # as many kernels

Call = Callable[[], object]


class Rehearsal:
    """Calls under way in threads of their own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0))))
        self._calls: list[Future[object]] = []

    def start(self, calls: Iterable[Call]) -> None:
        self._calls += [self._pool.submit(torch.inference_mode()(call)) for call in calls]

    def finish(self) -> None:
        """Waits for all calls, and raises what one of them raised."""
        self._pool.shutdown()
        for call in self._calls:
            call.result()


def kernel_calls(
    backend: AttentionBackend, block_size: int, max_blocks: int, vocab_size: int, share_reads: bool
) -> Iterator[Call]:
    """A call for each kernel of attention and sampling that steps launch.

    ``max_blocks`` is the most that a sequence has: how tensors lie decides which kernel Triton compiles. Rows with
    penalties, a bias or log probabilities have kernels of their own, which are left to the first such row.
    """
    scratch = _Scratch(backend, block_size, max_blocks)
    for spec in backend.specs:
        yield partial(scratch.attend, spec, scratch.prompt(_MANY_TOKENS, fresh=True))
        yield partial(scratch.attend, spec, scratch.row())
        yield partial(scratch.attend, spec, scratch.prompt(1, fresh=False))
        if share_reads and not spec.window:
            yield partial(scratch.attend, spec, scratch.row(shared=True))
    for variant in (Variant.PLAIN, Variant.GREEDY):
        yield partial(_sample, variant, vocab_size, backend)


def linear_calls(model: nn.Module) -> Iterator[Call]:
    """A call for each kernel of wide linears."""
    weights = [getattr(module, "fused_weight", getattr(module, "weight", None)) for module in model.modules()]
    wide = {(w.shape, w.dtype): w for w in weights if isinstance(w, torch.Tensor) and w.ndim == 2 and is_wide(w)}
    for weight in wide.values():
        for count in _WIDE_ROWS:
            yield partial(wide_linear, weight.new_zeros(count, weight.shape[1]), weight, None)


def _sample(variant: Variant, vocab_size: int, backend: AttentionBackend) -> None:
    state = SamplingState(1, vocab_size, backend.device)
    logits = torch.zeros(1, vocab_size, dtype=backend.dtype, device=backend.device)
    row = torch.zeros(1, dtype=torch.int32, device=backend.device)
    load_sampler(backend.device).sample(logits, row, row, state, variant)


class _Scratch:
    """Steps over a cache of one block, which all of them read and write."""

    def __init__(self, backend: AttentionBackend, block_size: int, max_blocks: int) -> None:
        self._backend = backend
        self._block_size = block_size
        self._table = self._zeros(1, max_blocks)
        self._caches = {
            spec: allocate_cache(1, block_size, spec, backend.dtype, backend.device) for spec in backend.specs
        }

    def prompt(self, num_tokens: int, fresh: bool) -> AttentionBatch:
        length = self._zeros(1) + num_tokens
        return AttentionBatch(
            slot_mapping=self._zeros(num_tokens).long(),
            block_table=self._table,
            block_size=self._block_size,
            num_prefill=1,
            prefill_rows=self._zeros(1),
            cu_seqlens_q=torch.cat([self._zeros(1), length]),
            seq_lens=length,
            max_seqlen_q=num_tokens,
            max_seqlen_k=num_tokens,
            fresh=fresh,
        )

    def row(self, shared: bool = False) -> AttentionBatch:
        return AttentionBatch(
            slot_mapping=self._zeros(1).long(),
            block_table=self._table,
            block_size=self._block_size,
            num_decode=1,
            rows=self._zeros(1),
            decode_lens=self._zeros(1) + 1,
            prefix=SharedPrefix(self._table[0], self._zeros(1), self._zeros(1)) if shared else None,
        )

    def attend(self, spec: AttentionSpec, batch: AttentionBatch) -> None:
        count = len(batch.slot_mapping)
        zeros = partial(torch.zeros, dtype=self._backend.dtype, device=self._backend.device)
        query = zeros(count, spec.num_heads, spec.head_dim)
        key, value = (zeros(count, spec.num_kv_heads, dim) for dim in (spec.head_dim, spec.value_dim))
        sinks = zeros(spec.num_heads) if spec.sinks else None
        self._backend.attend(query, key, value, self._caches[spec], batch, spec, sinks)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.int32, device=self._backend.device)
