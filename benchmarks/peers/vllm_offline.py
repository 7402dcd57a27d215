# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""vLLM's LLM.generate on the workloads of benchmarks/workloads.py: one JSON line each. Needs vllm and a GPU.

    python benchmarks/peers/vllm_offline.py SHAPE WORKLOAD [...]           token ids in, token ids out
    python benchmarks/peers/vllm_offline.py SHAPE rows.parquet OUT.arrow   text in, text out, as end_to_end.py writes it

Random weights, bf16, greedy, end-of-sequence ignored; prefix caching only for the workload that is named so.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import vllm
from vllm import LLM, SamplingParams
from workloads import SHAPES, WORKLOADS, Item


def exactly(num_tokens: int, detokenize: bool = False) -> SamplingParams:
    return SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=num_tokens, detokenize=detokenize)


def load(folder: Path, prefix_caching: bool, with_tokenizer: bool = False) -> LLM:
    return LLM(
        str(folder),
        load_format="dummy",
        skip_tokenizer_init=not with_tokenizer,
        dtype="bfloat16",
        max_model_len=16384,
        enable_prefix_caching=prefix_caching,
    )


def run(llm: LLM, items: list[Item]) -> float:
    prompts = [{"prompt_token_ids": item.prompt} for item in items]
    started = time.perf_counter()
    outputs = llm.generate(prompts, [exactly(item.num_outputs) for item in items], use_tqdm=False)
    seconds = time.perf_counter() - started
    assert [len(output.outputs[0].token_ids) for output in outputs] == [item.num_outputs for item in items]
    return seconds


def end_to_end(llm: LLM, source: Path, target: Path) -> tuple[float, int]:
    """Seconds from opening the Parquet file to the closed Arrow file, and tokens out: what a plain script does."""
    started = time.perf_counter()
    table = pyarrow.parquet.read_table(source)
    limits = [options["max_tokens"] for options in table["sampling_params"].to_pylist()]
    outputs = llm.generate(table["prompt"].to_pylist(), [exactly(limit, True) for limit in limits], use_tqdm=False)
    answered = table.append_column("completion", pa.array([output.outputs[0].text for output in outputs]))
    with pyarrow.ipc.new_stream(target, answered.schema) as writer:
        writer.write_table(answered)
    return time.perf_counter() - started, sum(limits)


def say(**values: object) -> None:
    print(json.dumps({"engine": f"vllm {vllm.__version__}", **values}), flush=True)


def main(shape: str, *words: str) -> None:
    from_file = words[0].endswith(".parquet")
    folder = Path(words[0]).parent / "model" if from_file else Path(tempfile.mkdtemp())
    if not from_file:
        (folder / "config.json").write_text(json.dumps(SHAPES[shape]))
    started = time.perf_counter()
    llm = load(folder, prefix_caching="prefix" in words, with_tokenizer=from_file)
    ready = time.perf_counter() - started
    run(llm, WORKLOADS["warm"]())
    say(event="ready", seconds=round(ready, 1))
    if from_file:
        seconds, tokens = end_to_end(llm, Path(words[0]), Path(words[1]))
        say(shape=shape, workload=Path(words[0]).stem, seconds=round(seconds, 2), start=round(ready, 1), tokens=tokens)
        return
    for name in words:
        items = WORKLOADS[name]()
        seconds, tokens = run(llm, items), sum(item.num_outputs for item in items)
        rate = round(tokens / seconds, 1)
        say(shape=shape, workload=name, seconds=round(seconds, 2), tokens=tokens, tokens_per_second=rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
