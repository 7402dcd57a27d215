# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""Linear layers of few rows on this GPU: every candidate checked in float64, then timed beside cuBLAS.

    python benchmarks/linear.py [--only PART OF A SHAPE'S NAME] [--json FILE]

Needs torch with CUDA and its Triton; under a minute. Kernels are compiled by several processes first. Times are
medians over replays of a CUDA graph whose launches take turns on weights larger than L2 together. TB/s counts the
bytes of the weight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runner.engine.linear.small import MAX_ROWS, LinearConfig, LinearSpace, small_linear

SHAPES = {
    "8B qkv": (6144, 4096),
    "8B o": (4096, 4096),
    "8B gate_up": (28672, 4096),
    "8B down": (4096, 14336),
    "8B head": (128256, 4096),
    "0.6B qkv": (4096, 1024),
    "0.6B o": (1024, 2048),
    "0.6B gate_up": (6144, 1024),
    "0.6B down": (1024, 3072),
    "0.6B head": (151936, 1024),
}
ROWS = (8, 16, 32, 64)
CANDIDATES = [
    LinearConfig(block_n, row_bytes, num_warps, num_stages, programs)
    for block_n, row_bytes, num_warps, num_stages, several in (
        (16, 512, 4, 3, (132, 264, 396)),
        (16, 256, 2, 5, (264, 528)),
        (32, 256, 4, 4, (132, 264, 396)),
        (32, 512, 4, 3, (132, 264)),
        (32, 512, 4, 4, (132, 264)),
        (32, 256, 4, 6, (132, 264)),
        (64, 128, 4, 5, (264, 396, 528)),
        (64, 256, 4, 3, (132, 264, 396)),
        (64, 256, 4, 4, (132, 264)),
        (64, 256, 4, 6, (132, 264)),
        (64, 512, 4, 3, (132,)),
        (128, 128, 4, 4, (132, 264)),
        (128, 128, 4, 6, (132, 264)),
        (128, 256, 4, 3, (132,)),
        (128, 128, 8, 4, (264,)),
        (128, 256, 8, 4, (132,)),
        (256, 128, 8, 4, (132,)),
    )
    for programs in several
]
WORKERS = 14
DEVICE = torch.device("cuda")
BF16 = torch.bfloat16
LIMITS = {BF16: 6e-3, torch.float16: 1e-3, torch.float32: 3e-6}
BYTES_A_REPLAY = 200e6  # several times L2
REPLAYS = 7
Launch = Callable[[int], Tensor]


class Result(NamedTuple):
    """A candidate's time in one cell; the candidate is None for cuBLAS."""

    us: float
    config: LinearConfig | None
    num_parts: int


# --- what worker processes do ------------------------------------------------------------------------------------


def compile_candidate(config: LinearConfig, rows: int) -> str | None:
    """Fills Triton's cache on disk with the whole and the split kernel; returns why a candidate cannot run."""
    try:
        for programs in (1, 64):
            variant = replace(config, programs=programs)
            weight = torch.zeros(256, 2 * config.num_stages * config.block_k(BF16), dtype=BF16, device=DEVICE)
            space = LinearSpace(DEVICE)
            space.reserve([tuple(weight.shape)], variant, BF16, rows)
            small_linear(weight[:rows], weight, None, variant, space)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a candidate that does not fit the chip is a result
        return f"{type(error).__name__}: {str(error)[:100]}"
    return None


def check_ragged(dtype: torch.dtype, block_n: int) -> str:
    """One line about sizes that no tile divides, with a bias; starts with FAIL when the error is over the limit."""
    config = LinearConfig(block_n, 128, num_stages=3)
    worst = 0.0
    for rows, out_features, in_features in ((5, 1000, 1333), (37, 333, 2056)):
        x, weight = (torch.randn(n, in_features, device=DEVICE).to(dtype) for n in (rows, out_features))
        bias = torch.randn(out_features, device=DEVICE).to(dtype)
        space = LinearSpace(DEVICE)
        space.reserve([(out_features, in_features)], config, dtype, rows)
        got = small_linear(x, weight, bias, config, space)
        worst = max(worst, relative_error(got, x.double() @ weight.double().T + bias.double()))
    return f"{'ok  ' if worst < LIMITS[dtype] else 'FAIL'} ragged, {dtype}, n{block_n}: relative error {worst:.1e}"


# --- one shape ---------------------------------------------------------------------------------------------------


def relative_error(got: Tensor, expected: Tensor) -> float:
    """NaN when anything is: it fails every comparison."""
    return ((got.double() - expected).norm() / expected.norm()).item()


class Bench:
    """A shape's weights, input of ``MAX_ROWS`` rows and answer in float64; weights take turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape = out_features, in_features = SHAPES[name]
        self.weight_bytes = out_features * in_features * BF16.itemsize
        num_weights = max(2, -int(-BYTES_A_REPLAY // self.weight_bytes))
        self.weights = torch.empty(num_weights, out_features, in_features, dtype=BF16, device=DEVICE).normal_()
        self.x = torch.randn(MAX_ROWS, in_features, dtype=BF16, device=DEVICE)
        self.expected = self.x.double() @ self.weights[0].double().T
        self.space = LinearSpace(DEVICE)

    def launch(self, config: LinearConfig | None, rows: int) -> Launch:
        x, weights = self.x[:rows], self.weights.unbind()
        if config is None:
            return lambda index: functional.linear(x, weights[index % len(weights)])
        self.space.reserve([self.shape], config, BF16, rows)
        return lambda index: small_linear(x, weights[index % len(weights)], None, config, self.space)

    def fault(self, launch: Launch, rows: int) -> str | None:
        """What is wrong with a candidate's answers, on memory that holds NaN before."""
        self.space.parts.fill_(float("nan"))
        torch.full((rows, self.shape[0]), float("nan"), dtype=BF16, device=DEVICE)  # freed: the next output's memory
        first, second = launch(0), launch(0)
        error = relative_error(first, self.expected[:rows])
        if not error < LIMITS[BF16]:
            return f"relative error {error:.1e}"
        if not first.equal(second):
            return "two calls differ"
        return "counters are not zero" if self.space.arrived.any() else None

    def graph_us(self, launch: Launch) -> float:
        """Microseconds a launch: the median replay of a graph."""
        launches = max(6, len(self.weights))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(launches):
                out = launch(index)
        times = []
        for _ in range(REPLAYS + 1):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / launches * 1e3)
        if not relative_error(out, launch(launches - 1).double()) < LIMITS[BF16]:
            raise RuntimeError(f"{self.name}: a replay's answer is not that of a call")
        return statistics.median(times[1:])


def time_cell(bench: Bench, rows: int, broken: set[tuple[LinearConfig, int]]) -> list[Result]:
    """cuBLAS first, then the candidates that can run and answer right, the fastest first."""
    bench.launch(None, rows)(0)  # cuBLAS makes its work space outside the graph
    results = [Result(bench.graph_us(bench.launch(None, rows)), None, 1)]
    seen = set()
    for config in CANDIDATES:
        num_parts = config.steps_of(*bench.shape, BF16)[1]
        kernel = (replace(config, programs=0), num_parts)
        if kernel in seen or (kernel[0], rows) in broken:
            continue
        seen.add(kernel)
        launch = bench.launch(config, rows)
        fault = bench.fault(launch, rows)
        if fault:
            print(f"FAIL {bench.name} M={rows} {describe(config, num_parts)}: {fault}")
        else:
            results.append(Result(bench.graph_us(launch), config, num_parts))
    return results[:1] + sorted(results[1:], key=lambda result: result.us)


def describe(config: LinearConfig | None, num_parts: int) -> str:
    if config is None:
        return "cuBLAS"
    return f"n{config.block_n} b{config.row_bytes} w{config.num_warps} s{config.num_stages} /{num_parts}"


def print_cell(bench: Bench, rows: int, results: list[Result]) -> None:
    cells = [f"{describe(r.config, r.num_parts)} {r.us:.1f} {bench.weight_bytes / r.us / 1e6:.2f}" for r in results[:4]]
    print(f"{bench.name:12s} M={rows:<2d} " + " | ".join(cells), flush=True)


def print_single_best(cells: dict[tuple[str, int], list[Result]]) -> None:
    """The candidates that come nearest to each cell's best, were one to serve all shapes; programs count here."""
    for rows in ROWS:
        losses = []
        for config in CANDIDATES:
            ratios = []
            for (name, cell_rows), results in cells.items():
                num_parts = config.steps_of(*SHAPES[name], BF16)[1]
                same = [
                    r.us
                    for r in results[1:]
                    if r.num_parts == num_parts and r.config and replace(r.config, programs=config.programs) == config
                ]
                if cell_rows == rows and same:
                    ratios.append(same[0] / min(r.us for r in results))
            if len(ratios) == len({name for name, _ in cells}):
                label = f"{describe(config, 0)[:-3]} p{config.programs}"
                losses.append((statistics.mean(ratios), max(ratios), label))
        best = ", ".join(f"{label} {mean:.3f} (worst {worst:.2f})" for mean, worst, label in sorted(losses)[:3])
        print(f"one for all, M={rows}, time over the best: {best}")


# --- all of it ---------------------------------------------------------------------------------------------------


def prepare() -> set[tuple[LinearConfig, int]]:
    """Compiles and checks in several processes; the candidates, less their programs, and rows that cannot run."""
    kernels = sorted({replace(config, programs=0) for config in CANDIDATES}, key=repr)
    jobs = [(config, block_m) for block_m in (64, 32, 16) for config in kernels]
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        compiled = pool.starmap_async(compile_candidate, jobs, chunksize=1)
        lines = pool.starmap(check_ragged, [(dtype, n) for dtype in LIMITS for n in (16, 64)], chunksize=1)
        reasons = compiled.get()
        pool.close()
        pool.join()  # nothing else may use the GPU while we time
    print("\n".join(line for line in lines if line.startswith("FAIL")) or f"ragged: {len(lines)} checks ok")
    broken = set()
    for (config, block_m), reason in zip(jobs, reasons, strict=True):
        if reason is not None:
            print(f"cannot run {describe(config, 0)} M={block_m}: {reason}")
            broken |= {(config, rows) for rows in ROWS if max(16, rows) == block_m}
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="time the shapes whose name contains this")
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args()
    began = time.perf_counter()
    broken = prepare()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, ready after {time.perf_counter() - began:.0f} s")
    print("us and TB/s; n = weight rows of a tile, b = bytes of a row in a step, w = warps, s = stages, / = parts")
    cells = {}
    for name in SHAPES:
        if arguments.only in name:
            bench = Bench(name)
            for rows in ROWS:
                cells[name, rows] = time_cell(bench, rows, broken)
                print_cell(bench, rows, cells[name, rows])
            del bench
            torch.cuda.empty_cache()
    print_single_best(cells)
    if arguments.json:
        records = [
            {"shape": name, "rows": rows, "us": r.us, "parts": r.num_parts, **(asdict(r.config) if r.config else {})}
            for (name, rows), results in cells.items()
            for r in results
        ]
        arguments.json.write_text(json.dumps(records))
    print(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
