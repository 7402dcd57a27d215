# ruff: noqa: E402, I001 - the project is imported from this checkout, once sys.path says so
"""Attention on this GPU: every backend checked in float64, then decode and prefill candidates timed.

    python benchmarks/attention.py [--only check,decode,prefill] [--json FILE]

Needs torch with CUDA and its Triton; under two minutes. Kernels are compiled by several processes first. Times are
medians over replays of a CUDA graph whose launches take turns on caches larger than L2 together. TB/s counts the
bytes of keys and values that must be read; TFLOP/s counts the products that causality leaves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "engine" / "attention")]

from attention_cases import Case, attend, make_step
from attention_data import DEVICE, DecodeData, copy_rate, graph_ms, host_us, prefill_step
from attention_shapes import (
    BF16,
    CHECKS,
    DECODES,
    FEW,
    FULL,
    PREFILL_CANDIDATES,
    PREFILLS,
    SHARED_PREFIX,
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
from runner.engine.attention.triton_sizes import shared_memory
from runner.engine.attention.triton_write import write_cache

WORKERS = 12
LIMITS = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 3e-6}
Launch = Callable[[int], Any]
Config = DecodeConfig | PrefillConfig


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
        out = attend(attention, case.spec, step)
        got, expected = out[step.live].double(), step.expected[step.live]
        errors.append(((got - expected).norm() / expected.norm()).item())
    verdict = "ok  " if max(errors) < LIMITS[dtype] else "FAIL"  # NaN fails
    return f"{verdict} {label}: relative error {max(errors):.1e}"


def compile_candidate(config: Config) -> str | None:
    """Fills Triton's cache on disk; returns why a candidate cannot run."""
    try:
        if isinstance(config, DecodeConfig):
            for shape in (FULL[0], FULL[4]):  # the two kinds of attention among the shapes
                small = replace(shape, rows=4, context=64, longest=0)
                decode_launch(config, DecodeData(small, num_caches=1))(0)
        else:
            for before in (0, 16):
                case = Case(prefill=((before, 64),) * 2, heads=32, kv_heads=8, head_dim=128, dtype=BF16)
                query, key, value, cache, batch = prefill_step(case)
                triton_prefill(query, key, value, cache, batch, case.spec, None, config)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a candidate that does not fit the chip is a result
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None


# --- timing ------------------------------------------------------------------------------------------------------


def decode_launch(config: DecodeConfig, data: DecodeData) -> Launch:
    spec, caches = data.shape.spec, data.caches
    decode = TritonDecode([spec], data.shape.rows, DEVICE, [config])
    return lambda index: decode(data.query, caches[index % len(caches)], data.batch, spec, None)


def describe(config: DecodeConfig, shape: DecodeShape) -> str:
    how = "by rows" if config.splits is None else "fixed"
    splits = config.splits_of(shape.rows, shape.kv_heads)
    return f"splits {splits} {how}, >={config.min_tiles} x n{config.block_n} w{config.num_warps} s{config.num_stages}"


def time_decode(broken: dict[Config, str], records: list[dict[str, Any]]) -> None:
    for shape, candidates in DECODES.items():
        data = DecodeData(shape, shape.num_caches())
        default = choose_config(shape.spec, BF16, deterministic=False)
        results = []
        for config in candidates:
            if config in broken:
                continue
            ms = graph_ms(decode_launch(config, data))
            rate = shape.read_bytes() / ms / 1e9
            mark = "  <- chosen" if config == default else ""
            results.append((ms, f"{describe(config, shape):40s} {ms * 1e3:8.1f} us  {rate:.3f} TB/s{mark}"))
            splits = config.splits_of(shape.rows, shape.kv_heads)
            records.append({"shape": shape.name, "ms": ms, "tbs": rate, **asdict(config), "splits": splits})
        print(f"\ndecode {shape.name}: {shape.read_bytes() / 1e6:.0f} MB")
        print("\n".join(f"     {line}" for _, line in sorted(results)))
        time_others(shape, data)
        del data
        torch.cuda.empty_cache()


def time_others(shape: DecodeShape, data: DecodeData) -> None:
    """What stands beside the decode kernel: the KV write, and FlashAttention-3 where it is installed."""
    key = torch.randn(shape.rows, shape.kv_heads, shape.head_dim, device=DEVICE, dtype=BF16)
    caches = data.caches
    ms = graph_ms(lambda i: write_cache(key, key, caches[i % len(caches)], data.batch.slot_mapping))
    print(f"     write {ms * 1e3:.1f} us")
    if backend_class("fa3").supports(shape.spec, BF16, shape.block_size) is None:
        backend = load_backend("fa3", [shape.spec], shape.rows, DEVICE, BF16, shape.block_size)
        backend.plan(data.batch)
        ms = graph_ms(lambda i: backend.decode(data.query, caches[i % len(caches)], data.batch, shape.spec))
        print(f"     fa3 {ms * 1e3:.1f} us  {shape.read_bytes() / ms / 1e9:.3f} TB/s")


def time_prefill(broken: dict[Config, str], records: list[dict[str, Any]]) -> None:
    for name, case in PREFILLS.items():
        pairs = sum(now * before + now * (now + 1) // 2 for before, now in case.prefill)
        flops = 4 * case.heads * case.head_dim * pairs
        print(f"\nprefill {name}: {flops / 1e12:.3f} TFLOP")
        launches = prefill_launches(case, name in SHARED_PREFIX, broken)
        for ms, label in sorted((graph_ms(launch, 3), label) for label, launch in launches.items()):
            print(f"     {label:34s} {ms:8.3f} ms  {flops / ms / 1e9:.0f} TFLOP/s")
            records.append({"prefill": name, "backend": label, "ms": ms, "tflops": flops / ms / 1e9})
        del launches
        torch.cuda.empty_cache()


def prefill_launches(case: Case, shared_prefix: bool, broken: dict[Config, str]) -> dict[str, Launch]:
    """What can run a case, by its label."""
    query, key, value, cache, batch = prefill_step(case, shared_prefix)
    spec = case.spec
    launches: dict[str, Launch] = {}
    for config in PREFILL_CANDIDATES:
        if config not in broken:
            chosen = "  <- chosen" if config == choose_prefill_config(spec, BF16, shared_memory(DEVICE)) else ""
            label = f"triton {config.block_m}x{config.block_n} w{config.num_warps} s{config.num_stages}{chosen}"
            launches[label] = _ignoring_index(triton_prefill, query, key, value, cache, batch, spec, None, config)
    if batch.fresh and varlen_serves(spec, BF16, DEVICE):
        launches["torch varlen_attn"] = _ignoring_index(varlen_prefill, query, key, value, batch, spec)
    return launches


def _ignoring_index(function: Callable[..., torch.Tensor], *arguments: Any) -> Launch:
    bound = partial(function, *arguments)
    return lambda _: bound()


def time_host(records: list[dict[str, Any]]) -> None:
    """Python's share of an eager step: small launches, so that the GPU keeps up."""
    shape = replace(FEW[0], rows=4, context=64)
    data = DecodeData(shape, 1)
    key = torch.randn(4, shape.kv_heads, shape.head_dim, device=DEVICE, dtype=BF16)
    query, *packed, cache, batch = prefill_step(replace(CHECKS["ragged"], decode=(), prefill=((16, 16),), dtype=BF16))
    config, spec = choose_prefill_config(shape.spec, BF16, shared_memory(DEVICE)), shape.spec
    launches: dict[str, Launch] = {
        "decode": decode_launch(DecodeConfig(), data),
        "write": lambda _: write_cache(key, key, data.caches[0], data.batch.slot_mapping),
        "prefill": _ignoring_index(triton_prefill, query, *packed, cache, batch, spec, None, config),
    }
    times = {name: host_us(launch) for name, launch in launches.items()}
    print("\neager launches, host: " + ", ".join(f"{name} {us:.0f} us" for name, us in times.items()))
    records.append({"host_us": times})


# --- all of it ---------------------------------------------------------------------------------------------------


def run_checks(pool: Any) -> None:
    jobs = []
    for name in CHECKS:
        jobs.append(("triton", name, BF16, False))
        jobs.append(("triton", name, torch.float32, True))
        jobs.append(("fa3", name, BF16, False))
    jobs.append(("triton", "ragged", torch.float16, True))
    jobs.append(("triton", "blocks of 32", BF16, True))
    lines = pool.starmap(check, jobs, chunksize=1)
    failures = [line for line in lines if line.startswith("FAIL")]
    print(f"checks: {sum(line.startswith('ok') for line in lines)} ok, {len(failures)} failed")
    print("\n".join(failures or [max((x for x in lines if x.startswith("ok")), key=lambda x: float(x[-7:]))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="check,decode,prefill")
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args()
    parts = set(arguments.only.split(","))
    records: list[dict[str, Any]] = []
    began = time.perf_counter()
    configs: list[Config] = []
    if "decode" in parts:
        configs += {config: None for candidates in DECODES.values() for config in candidates}
    if "prefill" in parts:
        configs += PREFILL_CANDIDATES
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        compiled = pool.map_async(compile_candidate, configs, chunksize=1)
        if "check" in parts:
            run_checks(pool)
        broken = {config: why for config, why in zip(configs, compiled.get(), strict=True) if why is not None}
        pool.close()
        pool.join()  # nothing else may use the GPU while we time
    for config, why in broken.items():
        print(f"cannot run {config}: {why}")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy_rate():.2f} TB/s, ", end="")
    print(f"ready after {time.perf_counter() - began:.0f} s")
    if "decode" in parts:
        time_decode(broken, records)
    if "prefill" in parts:
        time_prefill(broken, records)
    time_host(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    print(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
