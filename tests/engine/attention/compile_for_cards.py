"""Compiles attention kernels for a card that is not there: writes the shared memory that each takes, as JSON.

A program of its own, because Triton's interpreter, which the tests run in, is chosen once a process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from runner.engine.attention.metadata import AttentionSpec
from runner.engine.attention.triton_prefill import choose_prefill_config
from runner.engine.attention.triton_prefill_kernels import prefill_kernel
from runner.engine.attention.triton_prefix import choose_prefix_config
from runner.engine.attention.triton_prefix_kernels import prefix_kernel
from runner.engine.attention.triton_sizes import dot_side, power_of_two

CAPABILITY, SHARED_MEMORY = 89, 101_376  # an L4, an L40S, a 4090
TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
INTEGERS = {"rows_ptr", "sharing_ptr", "blocks_ptr", "num_tokens_ptr", "starts_ptr", "lens_ptr", "table_ptr"}
SPECS = {
    "heads of 128": AttentionSpec(32, 8, 128, 128, 0.1),
    "heads of 256": AttentionSpec(8, 4, 256, 256, 0.1),
    "heads of 192, values of 128": AttentionSpec(16, 16, 192, 128, 0.1),
}


def shared_memory(kernel: Any, constants: dict[str, Any], dtype: torch.dtype, warps: int, stages: int) -> int:
    names = kernel.arg_names
    kinds = {}
    for name in names:
        pointer = "*i32" if name in INTEGERS else "*fp32" if name.startswith("part_") else f"*{TYPES[dtype]}"
        plain = pointer if name.endswith("_ptr") else "fp32" if name == "scale" else "i32"
        kinds[name] = "constexpr" if name in constants else plain
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith(("_ptr", "_stride"))}
    known = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=known, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    return int(triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options).metadata.shared)


def common(spec: AttentionSpec, dtype: torch.dtype, block_n: int) -> dict[str, Any]:
    return {
        "GROUP": spec.group,
        "HEAD_DIM": spec.head_dim,
        "VALUE_DIM": spec.value_dim,
        "BLOCK_SIZE": 16,
        "SOFT_CAP": 0.0,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "BLOCK_N": block_n,
        "BLOCK_D": dot_side(spec.head_dim),
        "BLOCK_V": dot_side(spec.value_dim),
    }


def of_prefix(spec: AttentionSpec, dtype: torch.dtype) -> int:
    config = choose_prefix_config(spec, dtype)
    group = power_of_two(spec.group)
    tile = {"KV_HEADS": spec.num_kv_heads, "ROWS": config.queries // group, "BLOCK_G": group}
    constants = common(spec, dtype, config.block_n) | tile
    return shared_memory(prefix_kernel, constants, dtype, config.num_warps, config.num_stages)


def of_prefill(spec: AttentionSpec, dtype: torch.dtype) -> int:
    config = choose_prefill_config(spec, dtype, SHARED_MEMORY)
    more = {"WINDOW": 0, "HAS_SINKS": False, "PAGED": True, "BLOCK_M": config.block_m}
    constants = common(spec, dtype, config.block_n) | more
    return shared_memory(prefill_kernel, constants, dtype, config.num_warps, config.num_stages)


if __name__ == "__main__":
    found = {
        f"{what}, {name}, {dtype}": measure(spec, dtype)
        for what, measure in (("prefix", of_prefix), ("prefill", of_prefill))
        for name, spec in SPECS.items()
        for dtype in TYPES
    }
    sys.stdout.write(json.dumps({"limit": SHARED_MEMORY, "kernels": found}))
