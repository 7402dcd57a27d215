# ruff: noqa: E402, I001 - the project is imported from this checkout, once sys.path says so
"""Attention on this GPU: every backend checked in float64, then decode and prefill candidates timed.

    python benchmarks/attention.py [--only check,decode,prefill] [--json FILE]

Needs torch with CUDA and its Triton; about two minutes. Kernels are compiled by several processes first. Times are
medians over replays of a CUDA graph whose launches take turns on caches larger than L2 together. TB/s counts the
bytes of keys and values that must be read; TFLOP/s counts the products that causality leaves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "engine" / "attention")]

from attention_cases import Case, make_step
from attention_data import DEVICE, DecodeData, copy_rate, graph_ms, prefill_step
from attention_shapes import (
    BF16,
    CANDIDATES,
    CHECKS,
    PREFILL_CANDIDATES,
    PREFILLS,
    SHAPES,
    DecodeShape,
)
from runner.engine.attention import backend_class, load_backend
from runner.engine.attention.triton_decode import DecodeConfig, TritonDecode, choose_config
from runner.engine.attention.triton_prefill import (
    PrefillConfig,
    choose_prefill_config,
    triton_prefill,
    varlen_prefill,
    varlen_serves,
)
from runner.engine.attention.triton_write import write_cache

WORKERS = 12
LIMITS = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 3e-6}


# --- what worker processes do -----------------------------------------------------------------------------------


def check(backend: str, name: str, dtype: torch.dtype, deterministic: bool) -> str:
    """One line of the check table; starts with FAIL when the error is over the limit."""
    case = replace(CHECKS[name], dtype=dtype, seed=time.time_ns() % 2**31)
    label = f"{backend}{' deterministic' if deterministic else ''}, {name}, {dtype}"
    reason = backend_class(backend).supports(case.spec, dtype, case.block_size)
    if reason:
        return f"skip {label}: {reason}"
    step = make_step(case, DEVICE)
    rows = max(1, step.batch.num_decode)
    attention = load_backend(backend, [case.spec], rows, DEVICE, dtype, case.block_size, deterministic)
    errors = []
    for _ in range(2):  # the second run finds the work space as the first one left it
        attention.plan(step.batch)
        out = attention.attend(step.query, step.key, step.value, step.cache, step.batch, case.spec, step.sinks)
        got, expected = out[step.live].double(), step.expected[step.live]
        errors.append(((got - expected).norm() / expected.norm()).item())
    verdict = "ok  " if max(errors) < LIMITS[dtype] else "FAIL"  # NaN fails
    return f"{verdict} {label}: relative error {max(errors):.1e}"


def compile_decode(config: DecodeConfig, shape: DecodeShape) -> str | None:
    """Fills Triton's cache on disk; returns why a candidate cannot run."""
    small = replace(shape, rows=4, context=64, longest=0)
    try:
        DecodeRun(small, config, num_caches=1).launch(0)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a candidate that does not fit the chip is a result
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None


def compile_prefill(config: PrefillConfig, paged: bool) -> str | None:
    before = 16 if paged else 0
    case = Case(prefill=((before, 64),) * 2, heads=32, kv_heads=8, head_dim=128, dtype=BF16)
    try:
        step = make_step(case, DEVICE)
        triton_prefill(step.query, step.key, step.value, step.cache, step.batch, case.spec, None, config)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None


# --- timing ------------------------------------------------------------------------------------------------------


class DecodeRun:
    """One candidate on one shape."""

    def __init__(
        self, shape: DecodeShape, config: DecodeConfig, num_caches: int = 1, data: DecodeData | None = None
    ) -> None:
        self.data = data or DecodeData(shape, num_caches)
        self.spec = shape.spec
        self.decode = TritonDecode([self.spec], shape.rows, DEVICE, [config])
        self.decode.plan(self.data.batch)

    def launch(self, index: int) -> torch.Tensor:
        caches = self.data.caches
        return self.decode(self.data.query, caches[index % len(caches)], self.data.batch, self.spec, None)


def describe(config: DecodeConfig) -> str:
    kind = f"runs {config.runs_per_sm}/sm" if config.runs_per_sm else f"splits {config.splits}x>={config.min_tiles}"
    limit = f" r{config.max_registers}" if config.max_registers else ""
    return f"{kind} n{config.block_n} w{config.num_warps} s{config.num_stages}{limit}"


def time_decode(broken: dict[DecodeConfig, str], records: list[dict[str, Any]]) -> None:
    scores: dict[DecodeConfig, list[float]] = {}
    for shape in SHAPES:
        data = DecodeData(shape, shape.num_caches())
        results = []
        for config in CANDIDATES:
            if config in broken:
                continue
            ms = graph_ms(DecodeRun(shape, config, data=data).launch)
            rate = shape.read_bytes() / ms / 1e9
            results.append((ms, rate, config))
            scores.setdefault(config, []).append(rate)
            records.append({"shape": shape.name, "ms": ms, "tbs": rate, **asdict(config)})
        results.sort(key=lambda result: result[0])
        report_decode(shape, results, data)
        del data
        torch.cuda.empty_cache()
    print("\nbest over all shapes (geometric mean of TB/s)")
    ranking = sorted(scores, key=lambda config: -statistics.geometric_mean(scores[config]))
    for config in ranking[:8]:
        rates = " ".join(f"{rate:.2f}" for rate in scores[config])
        print(f"  {describe(config):34s} {statistics.geometric_mean(scores[config]):.3f}   {rates}")
    time_layouts(ranking[:2], records)


def report_decode(shape: DecodeShape, results: list[tuple[float, float, DecodeConfig]], data: DecodeData) -> None:
    default = choose_config(shape.spec, BF16, deterministic=False)
    print(f"\ndecode {shape.name}: {shape.read_bytes() / 1e6:.0f} MB")
    for place, (ms, rate, config) in enumerate(results):
        chosen = config == default
        if place < 7 or chosen or place == len(results) - 1:
            mark = "  <- chosen" if chosen else ""
            print(f"  {place + 1:2d} {describe(config):34s} {ms * 1e3:8.1f} us  {rate:.3f} TB/s{mark}")
    plan = TritonDecode([shape.spec], shape.rows, DEVICE, [default])
    print(f"     plan, once a step: {graph_ms(lambda _: plan.plan(data.batch)) * 1e3:.1f} us", end="")
    key = torch.randn(shape.rows, shape.kv_heads, shape.head_dim, device=DEVICE, dtype=BF16)
    write = graph_ms(lambda i: write_cache(key, key, data.caches[i % len(data.caches)], data.batch.slot_mapping))
    print(f", write: {write * 1e3:.1f} us")
    time_fa3(shape, data)


def time_fa3(shape: DecodeShape, data: DecodeData) -> None:
    if backend_class("fa3").supports(shape.spec, BF16, shape.block_size) is not None:
        return
    backend = load_backend("fa3", [shape.spec], shape.rows, DEVICE, BF16, shape.block_size)
    backend.plan(data.batch)
    caches = data.caches
    ms = graph_ms(lambda i: backend.decode(data.query, caches[i % len(caches)], data.batch, shape.spec))
    print(f"     fa3 {ms * 1e3:.1f} us  {shape.read_bytes() / ms / 1e9:.3f} TB/s")


def time_layouts(configs: Sequence[DecodeConfig], records: list[dict[str, Any]]) -> None:
    print("\nlayouts: [blocks, tokens, heads, dim] and [blocks, heads, tokens, dim], by block size")
    for shape in (SHAPES[0], SHAPES[1]):
        for block_size in (16, 32, 64):
            sized = replace(shape, block_size=block_size)
            cells = []
            for heads_first in (False, True):
                data = DecodeData(sized, sized.num_caches(), heads_first)
                for config in configs:
                    ms = graph_ms(DecodeRun(sized, config, data=data).launch)
                    layout = "heads" if heads_first else "tokens"
                    rate = sized.read_bytes() / ms / 1e9
                    cells.append(f"{layout} {rate:.3f}")
                    records.append({"layout": layout, "block_size": block_size, "shape": shape.name, "tbs": rate})
                del data
                torch.cuda.empty_cache()
            print(f"  {shape.name}, block {block_size}: " + "  ".join(cells) + " TB/s")


def time_prefill(broken: dict[tuple[PrefillConfig, bool], str], records: list[dict[str, Any]]) -> None:
    for name, case in PREFILLS.items():
        pairs = sum(now * before + now * (now + 1) // 2 for before, now in case.prefill)
        flops = 4 * case.heads * case.head_dim * pairs
        print(f"\nprefill {name}: {flops / 1e12:.2f} TFLOP")
        launches = prefill_candidates(case, broken)
        for ms, label in sorted((graph_ms(launch, 3), label) for label, launch in launches.items()):
            print(f"     {label:34s} {ms:8.3f} ms  {flops / ms / 1e9:.0f} TFLOP/s")
            records.append({"prefill": name, "backend": label, "ms": ms, "tflops": flops / ms / 1e9})


def prefill_candidates(
    case: Case, broken: dict[tuple[PrefillConfig, bool], str]
) -> dict[str, Callable[[int], torch.Tensor]]:
    """What can run a case, by its label."""
    query, key, value, cache, batch = prefill_step(case)
    spec = case.spec
    launches: dict[str, Callable[[int], torch.Tensor]] = {}
    for config in PREFILL_CANDIDATES:
        if (config, not batch.fresh) not in broken:
            chosen = "  <- chosen" if config == choose_prefill_config(spec, BF16) else ""
            label = f"triton {config.block_m}x{config.block_n} w{config.num_warps} s{config.num_stages}{chosen}"
            launches[label] = _ignoring_index(triton_prefill, query, key, value, cache, batch, spec, None, config)
    if batch.fresh and varlen_serves(spec, BF16, DEVICE):
        launches["torch varlen_attn"] = _ignoring_index(varlen_prefill, query, key, value, batch, spec)
    return launches


def _ignoring_index(function: Callable[..., torch.Tensor], *arguments: Any) -> Callable[[int], torch.Tensor]:
    bound = partial(function, *arguments)
    return lambda _: bound()


def run_checks(pool: Any) -> None:
    jobs = []
    for name in CHECKS:
        jobs.append(("triton", name, BF16, False))
        jobs.append(("triton", name, torch.float32, True))
        jobs.append(("fa3", name, BF16, False))
    jobs.append(("triton", "ragged", torch.float16, True))
    jobs.append(("triton", "mixed, blocks of 32", BF16, True))
    lines = pool.starmap(check, jobs, chunksize=1)
    failures = [line for line in lines if line.startswith("FAIL")]
    print(f"checks: {sum(line.startswith('ok') for line in lines)} ok, {len(failures)} failed")
    print("\n".join(failures or [max((x for x in lines if x.startswith("ok")), key=lambda x: float(x[-7:]))]))


class Compilation:
    """The candidates being compiled by worker processes, and those that turn out not to fit the chip."""

    def __init__(self, pool: Any, parts: set[str]) -> None:
        self._decode: dict[DecodeConfig, Any] = {}
        self._prefill: dict[tuple[PrefillConfig, bool], Any] = {}
        if "decode" in parts:
            for config in CANDIDATES:
                self._decode[config] = pool.apply_async(compile_decode, (config, SHAPES[0]))
                pool.apply_async(compile_decode, (config, SHAPES[-1]))
        if "prefill" in parts:
            for prefill_config in PREFILL_CANDIDATES:
                for paged in (False, True):
                    job = pool.apply_async(compile_prefill, (prefill_config, paged))
                    self._prefill[prefill_config, paged] = job

    def broken_decode(self) -> dict[DecodeConfig, str]:
        return {config: why for config, job in self._decode.items() if (why := job.get()) is not None}

    def broken_prefill(self) -> dict[tuple[PrefillConfig, bool], str]:
        return {key: why for key, job in self._prefill.items() if (why := job.get()) is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="check,decode,prefill")
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args()
    parts = set(arguments.only.split(","))
    records: list[dict[str, Any]] = []
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        compilation = Compilation(pool, parts)
        if "check" in parts:
            run_checks(pool)
        broken, broken_prefill = compilation.broken_decode(), compilation.broken_prefill()
        pool.close()
        pool.join()  # nothing else may use the GPU while we time
    for candidate, why in (*broken.items(), *broken_prefill.items()):
        print(f"cannot run {candidate}: {why}")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy_rate():.2f} TB/s, ", end="")
    print(f"ready after {time.perf_counter() - began:.0f} s")
    if "decode" in parts:
        time_decode(broken, records)
    if "prefill" in parts:
        time_prefill(broken_prefill, records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    print(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
