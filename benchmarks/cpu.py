# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""The engine on a CPU beside ``model.generate``: the same model, prompts and greedy tokens, in one process.

    python benchmarks/cpu.py [repeats]

64 chat prompts of SmolLM2-135M-Instruct, answers of at most 128 tokens with lengths as they come. ``generate`` runs
over left-padded batches, of 8 one after another and of all 64 at once. Says the seconds of each run, in their order,
whether the tokens agree, and the ratios of the medians. On a machine that does other work too, the seconds of CPU say
more than those of the clock: others lengthen the one run and not the other.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from runner.config import Device, EngineConfig, ModelSettings
from runner.engine.build import core_over
from runner.engine.device import open_device
from runner.engine.loader import load_model
from runner.models import resolve_model
from runner.text import TextTokenizer
from runner.types import EngineRequest, SamplingParams

MODEL = ModelSettings(path="smollm2-135m-instruct", device=Device.cpu)
NUM_PROMPTS, MAX_TOKENS = 64, 128
TOPICS = Path(__file__).resolve().parents[1] / "jobs" / "data" / "personas.jsonl"
Answers = list[list[int]]


def prompts(tokenizer: TextTokenizer) -> list[list[int]]:
    """Chat prompts whose lengths differ by a factor of several."""
    import orjson

    rows = [orjson.loads(line) for line in TOPICS.read_bytes().splitlines()[:NUM_PROMPTS]]
    texts = [
        f"{row['topic']}: {' '.join(str(v) for v in list(row.values())[: 1 + i % 5])}" for i, row in enumerate(rows)
    ]
    return [tokenizer.encode_chat([{"role": "user", "content": text}])[1] for text in texts]


def engine_run(model: torch.nn.Module, ids: list[list[int]], eos_ids: tuple[int, ...]) -> tuple[float, Answers]:
    config = EngineConfig(max_num_seqs=NUM_PROMPTS, max_model_len=1024)
    core = core_over(model, config, open_device("cpu"), eos_ids, context=8192)
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0)
    started = time.perf_counter()
    core.add([EngineRequest(i, prompt, params, (i,)) for i, prompt in enumerate(ids)])
    found = {}
    while core.has_work:
        found |= {sample.request_id: sample.token_ids for sample in core.step()}
    return time.perf_counter() - started, [found[i] for i in range(len(ids))]


def generate_run(
    model: torch.nn.Module, ids: list[list[int]], eos_ids: tuple[int, ...], batch: int
) -> tuple[float, Answers]:
    answers: Answers = []
    started = time.perf_counter()
    for first in range(0, len(ids), batch):
        part = ids[first : first + batch]
        width = max(map(len, part))
        padded = torch.tensor([[0] * (width - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        out = model.generate(
            padded,
            attention_mask=mask,
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=list(eos_ids),
            pad_token_id=0,
        )
        answers += [trim(row, eos_ids) for row in out[:, width:].tolist()]
    return time.perf_counter() - started, answers


def trim(row: list[int], eos_ids: tuple[int, ...]) -> list[int]:
    """An answer up to its end-of-sequence id, without the padding after it."""
    ends = [i for i, token in enumerate(row) if token in eos_ids]
    return row[: ends[0] + 1] if ends else row


def main(repeats: str = "2") -> None:
    files = resolve_model(MODEL)
    tokenizer = TextTokenizer(files.folder)
    ids = prompts(tokenizer)
    served, plain = (load_model(files, MODEL, torch.device("cpu")) for _ in range(2))
    runs = {
        "engine": lambda: engine_run(served, ids, files.eos_token_ids),
        "generate x 8": lambda: generate_run(plain, ids, files.eos_token_ids, 8),
        "generate x 64": lambda: generate_run(plain, ids, files.eos_token_ids, 64),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Answers] = {}
    for turn in range(int(repeats)):
        for name in list(runs) if turn % 2 == 0 else list(reversed(runs)):
            began = time.process_time()
            elapsed, answers[name] = runs[name]()
            cpu_seconds[name].append(time.process_time() - began)
            seconds[name].append(elapsed)
            print(f"{name:14} {elapsed:7.1f} s, of CPU {cpu_seconds[name][-1]:7.1f} s", flush=True)
    tokens = sum(map(len, answers["engine"]))
    same = sum(a == b for a, b in zip(answers["engine"], answers["generate x 8"], strict=True))
    print(f"prompts of {min(map(len, ids))} to {max(map(len, ids))} tokens, {tokens} tokens out")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"answers equal to generate's: {same} of {len(ids)}")
    for name in ("generate x 8", "generate x 64"):
        ratio, of_cpu = (statistics.median(t[name]) / statistics.median(t["engine"]) for t in (seconds, cpu_seconds))
        print(f"{name} / engine: {ratio:.2f}, of CPU {of_cpu:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
