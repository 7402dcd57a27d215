# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""transformers' own continuous batching on the workloads of benchmarks/workloads.py: one JSON line each. Needs a GPU.

    python benchmarks/peers/transformers_batching.py SHAPE sync|async COMPILE_LEVEL WORKLOAD [...]

Random weights, bf16, greedy, end-of-sequence ignored, CUDA graphs on. PEER_ATTENTION names the attention
(default flash_attention_3, which needs its package; sdpa does not). Written against transformers 5.17.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import WorkloadHints
from transformers.initialization import no_init_weights
from workloads import SHAPES, WORKLOADS, Item

ATTENTION = os.environ.get("PEER_ATTENTION", "flash_attention_3")


def load(shape: str) -> PreTrainedModel:
    config = AutoConfig.for_model(**SHAPES[shape])
    with torch.device("cuda"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(0.0, 0.02)
    return model.eval()


def run(model: PreTrainedModel, batching: ContinuousBatchingConfig, items: list[Item]) -> float:
    longest = max(item.num_outputs for item in items)
    options = GenerationConfig(do_sample=False, max_new_tokens=longest, eos_token_id=-1, pad_token_id=0)
    hints = WorkloadHints(
        max_prompt_length=max(len(item.prompt) for item in items),
        max_generated_length=longest,
        num_requests=len(items),
    )
    lengths: dict[str, int] = {}
    with model.continuous_batching_context_manager(
        generation_config=options, continuous_batching_config=batching, block=True, timeout=5, workload_hints=hints
    ) as manager:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for i, item in enumerate(items):
            manager.add_request(item.prompt, request_id=str(i), max_new_tokens=item.num_outputs)
        while len(lengths) < len(items):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                lengths[result.request_id] = len(result.generated_tokens)
            assert result is not None or manager.is_running(), "the manager died"
        seconds = time.perf_counter() - started
    assert lengths == {str(i): item.num_outputs for i, item in enumerate(items)}
    return seconds


def main(shape: str, mode: str, compile_level: str, *names: str) -> None:
    model = load(shape)
    batching = ContinuousBatchingConfig(
        use_async_batching=mode == "async", use_cuda_graph=True, default_compile_level=int(compile_level)
    )
    for name in ("warm", *names):
        items = WORKLOADS[name]()
        seconds, tokens = run(model, batching, items), sum(item.num_outputs for item in items)
        values = {
            "engine": f"transformers {transformers.__version__} {mode}, compile level {compile_level}, {ATTENTION}",
            "shape": shape,
            "workload": name,
            "seconds": round(seconds, 2),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1),
        }
        print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
