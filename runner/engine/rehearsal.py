"""Calls kernels and matrix products before the first row, so that no row waits until they are compiled or loaded.

Triton takes up to two seconds for a kernel that it has not compiled before, and lets other threads run meanwhile: each
of our kernels is called once from a thread of its own, on memory that is nobody's, those of wide linears while the
model is proven, the others while torch's compiler works. cuBLAS chooses a kernel by the number of rows, and loads it
when it is first called, for which CUDA may wait until the device has done all that it was given: a step of prompts, in
mid-run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from runner.engine.attention import AttentionBackend, AttentionBatch, AttentionSpec, allocate_cache
from runner.engine.attention.metadata import SharedPrefix
from runner.engine.linear.weights import LinearWeights, linear_weights
from runner.engine.linear.wide import is_wide, wide_linear
from runner.engine.sampler import SamplingState, Variant, load_sampler
from runner.engine.scheduler_config import SchedulerConfig

_MOST_THREADS = 8
_MANY_TOKENS = 2048  # the cache is written by another kernel for so many
_WIDE_ROWS = 2, 17, 33  # as many kernels
_PROMPT_SIZES = 32  # of steps of prompts, whose products are called
_DTYPES = torch.float32, torch.float16, torch.bfloat16  # others are quantised, and multiplied in other ways

Call = Callable[[], object]


class Rehearsal(AbstractContextManager["Rehearsal"]):
    """Calls in threads of their own. At its end all have returned, and what one of them raised is raised.

    If it is left by an exception, calls that have not begun are dropped.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0))))
        self._calls: list[Future[object]] = []

    def start(self, calls: Iterable[Call]) -> None:
        self._calls += [self._pool.submit(torch.inference_mode()(call)) for call in calls]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for call in self._calls:
                call.result()


def kernel_calls(backend: AttentionBackend, config: SchedulerConfig, vocab_size: int) -> Iterator[Call]:
    """A call for each kernel of attention and sampling that steps launch.

    How tensors lie decides which kernel Triton compiles; queries, keys and values are taken to lie dense, which is as
    good for most models. Rows with penalties, a bias or log probabilities have kernels of their own, which are left to
    the first such row. For backends that plan nothing. All calls use the device's default stream, where one runs after
    the other.
    """
    scratch = _Scratch(backend, config)
    for spec in backend.specs:
        yield partial(scratch.attend, spec, scratch.prompt(_MANY_TOKENS, fresh=True))
        yield partial(scratch.attend, spec, scratch.row())
        yield partial(scratch.attend, spec, scratch.prompt(1, fresh=False))
        if config.share_reads and not spec.window:
            yield partial(scratch.attend, spec, scratch.row(shared=True))
    for variant in (Variant.PLAIN, Variant.GREEDY):
        yield partial(_sample, variant, vocab_size, backend)


def linear_calls(modules: Iterable[nn.Module]) -> Iterator[Call]:
    """A call for each kernel of wide linears in these modules."""
    wide = [each for each in _products(modules) if is_wide(each.weight)]
    for weight, bias in {(w.weight.shape, w.bias is None): w for w in wide}.values():
        for count in _WIDE_ROWS:
            yield partial(wide_linear, weight.new_zeros(count, weight.shape[1]), weight, bias)


@torch.inference_mode()
def call_products(modules: Iterable[nn.Module], sizes: Iterable[int]) -> None:
    """Calls every product of these modules for each number of rows; their memory is given back to the device."""
    products = _products(modules)
    for size in sizes:
        for weight, bias in products:
            functional.linear(weight.new_empty(size, weight.shape[1]), weight, bias)
    torch.cuda.empty_cache()


def prompt_sizes(max_tokens: int) -> list[int]:
    """Some numbers of tokens of a step of prompts, the largest among them."""
    return sorted({-(-max_tokens * part // _PROMPT_SIZES) for part in range(1, _PROMPT_SIZES + 1)})


def _products(modules: Iterable[nn.Module]) -> list[LinearWeights]:
    return [each for module in modules for each in linear_weights(module) if each.weight.dtype in _DTYPES]


def _sample(variant: Variant, vocab_size: int, backend: AttentionBackend) -> None:
    state = SamplingState(1, vocab_size, backend.device)
    logits = torch.zeros(1, vocab_size, dtype=backend.dtype, device=backend.device)
    row = torch.zeros(1, dtype=torch.int32, device=backend.device)
    load_sampler(backend.device).sample(logits, row, row, state, variant)


class _Scratch:
    """Steps over a cache of one block, which all of them read and write."""

    def __init__(self, backend: AttentionBackend, config: SchedulerConfig) -> None:
        self._backend = backend
        self._block_size = config.block_size
        self._table = self._zeros(1, config.max_blocks_per_sequence)
        self._caches = {
            spec: allocate_cache(1, config.block_size, spec, backend.dtype, backend.device) for spec in backend.specs
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
