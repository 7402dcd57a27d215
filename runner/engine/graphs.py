"""CUDA graphs of decode steps: one a batch size and kind of step, sharing one pool.

A graph is captured when it is first needed, or before that while the device is busy with prompts: capturing takes the
host some 20 ms for an 8B model, and the device nothing.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runner.engine.sampler import Variant

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """What a decode step is beside its size: how it samples, and whether its rows read a shared beginning once."""

    variant: Variant
    shared: bool = False


Body = Callable[[int, Kind], tuple[Tensor, Tensor]]


class DecodeGraphs:
    """Replays ``body(num_rows, kind) -> (tokens, status)``, int32 [num_rows] each, from graphs.

    ``body`` reads and writes memory of fixed addresses only, and may be run with padding rows. ``warm_up`` runs it
    once for real on padding rows, so that no kernel is compiled while a graph is captured. ``sizes`` are the batch
    sizes that may have a graph; the largest is that of the largest batch.
    """

    def __init__(self, body: Body, warm_up: Callable[[int, Kind], None], sizes: Sequence[int]) -> None:
        self._body = body
        self._warm_up = warm_up
        self._sizes = sorted(sizes)
        self._graphs: dict[tuple[int, Kind], tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._capturable = True
        self._slowest = 0.0  # seconds of the longest capture so far
        self._warm: set[tuple[Kind, tuple[bool, bool]]] = set()

    def size_for(self, num_rows: int) -> int:
        """The padded batch size that serves ``num_rows``."""
        return self._sizes[bisect.bisect_left(self._sizes, num_rows)]

    def run(self, num_rows: int, kind: Kind) -> tuple[Tensor, Tensor]:
        """Runs the step on the current stream; the results hold ``num_rows`` rows and live until the next step."""
        key = self.size_for(num_rows), kind
        if key not in self._graphs and self._capturable:
            self._try_capture(*key)
        if key not in self._graphs:
            return self._body(num_rows, kind)
        graph, (tokens, status) = self._graphs[key]
        graph.replay()
        return tokens[:num_rows], status[:num_rows]

    def capture_ahead(self, num_rows: int, most: int, kind: Kind, has_time: Callable[[float], bool]) -> None:
        """Captures what is missing, as long as there is time for what the longest capture so far took (seconds).

        First come the sizes that serve ``num_rows``, which there are now or soon, to ``most``, which there may come
        to be; then the smaller ones, which they shrink to.
        """
        now, last = self.size_for(num_rows), self.size_for(most)
        sizes = [size for size in self._sizes if now <= size <= last]
        sizes += [size for size in reversed(self._sizes) if size < now]
        missing = [size for size in sizes if (size, kind) not in self._graphs]
        # A capture that finds no memory is tried again when it is needed, and the batch shrinks then if it must.
        with contextlib.suppress(torch.OutOfMemoryError):
            for size in missing:
                if not self._capturable or not has_time(self._slowest):
                    break
                self._try_capture(size, kind)

    def _try_capture(self, size: int, kind: Kind) -> None:
        """Some models' code asks the host in mid-step (experts chosen in Python): they run without graphs."""
        began = time.perf_counter()
        try:
            self._graphs[size, kind] = self._capture(size, kind)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._capturable = False
            log.warning("decode steps run without CUDA graphs: %s", str(error).splitlines()[0])
        self._slowest = max(self._slowest, time.perf_counter() - began)

    def _capture(self, size: int, kind: Kind) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        special = kind, _specialisation(size)
        if special not in self._warm:
            self._warm_up(size, kind)
            self._warm.add(special)
        graph = torch.cuda.CUDAGraph()
        # Not `with torch.cuda.graph(...)`: that waits for the device, collects garbage and empties the memory cache.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            results = self._body(size, kind)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # ending an invalid capture says so again
                graph.capture_end()
            raise
        graph.capture_end()
        return graph, results


def _specialisation(size: int) -> tuple[bool, bool]:
    """Triton compiles a kernel anew for a size of 1 and for multiples of 16; ours are told not to, a model's may."""
    return size == 1, size % 16 == 0
