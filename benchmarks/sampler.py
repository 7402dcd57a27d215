"""Times the Triton sampler on a GPU and checks it against the torch one: ``python -m benchmarks.sampler``.

Each figure is one call in a CUDA graph, in microseconds. Logits are bf16 and look like a model's: a broad bell with a
few dozen tokens well above it; they stay in L2 between replays, where a model's last linear leaves them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler import (
    ROW,
    WORDS,
    LogprobsBuffer,
    SamplingState,
    Variant,
    bias_entries,
    load_sampler,
    needs_edits,
    pack,
)
from runner.engine.sampler.torch_sampler import TorchSampler
from runner.types import SamplingParams

BATCHES = (1, 32, 256, 512)
VOCABULARIES = (49_152, 128_256, 151_936)
CHECKED_ROWS = 64
REPLAYS = 50
CASES = {
    "greedy": (Variant.GREEDY, SamplingParams(temperature=0.0)),
    "plain greedy": (Variant.PLAIN, SamplingParams(temperature=0.0)),
    "temperature": (Variant.PLAIN, SamplingParams(temperature=0.8)),
    "top_p": (Variant.PLAIN, SamplingParams(top_p=0.95)),
    "top_k": (Variant.PLAIN, SamplingParams(top_k=50)),
    "top_k top_p": (Variant.PLAIN, SamplingParams(temperature=0.7, top_k=20, top_p=0.8)),
    "penalties": (Variant.FULL, SamplingParams(repetition_penalty=1.05)),
    "bad words": (Variant.FULL, SamplingParams(bad_words=((98, 99, 7), (99, 8), (5, 9)))),
    "logprobs 5": (Variant.FULL, SamplingParams(logprobs=5)),
}


def model_like_logits(rows: int, vocab_size: int) -> Tensor:
    """bf16 [rows, vocab_size] on the GPU."""
    logits = torch.randn(rows, vocab_size, device="cuda") * 2
    raised = torch.randint(0, vocab_size, (rows, 40), device="cuda")
    logits.scatter_(1, raised, torch.rand(rows, 40, device="cuda") * 10 + 8)
    return logits.bfloat16()


def state_of(params: SamplingParams, rows: int, vocab_size: int, device: str) -> SamplingState:
    state = SamplingState(rows, vocab_size, device)
    packet = np.empty(rows, dtype=ROW)
    for slot in range(rows):
        packet[slot] = pack(params, slot, (2,), 0)
    words = torch.from_numpy(packet.view(np.int32).reshape(rows, WORDS)).to(device)
    state.admit(torch.arange(rows, device=device), words)
    if needs_edits(params):
        prompt = torch.arange(100, device=device)
        for slot in range(rows):
            state.load_edits(slot, params, prompt, prompt[:0], bias_entries(params))
    return state


def time_case(name: str, rows: int, logits: Tensor) -> float:
    """Microseconds of one call."""
    variant, params = CASES[name]
    state = state_of(params, rows, logits.shape[1], "cuda")
    sampler = load_sampler(logits.device)
    slots = torch.arange(rows, dtype=torch.int32, device="cuda")
    positions = torch.zeros_like(slots)
    buffer = LogprobsBuffer.empty(rows, params.logprobs, "cuda") if params.logprobs else None
    sampler.sample(logits, slots, positions, state, variant, buffer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sampler.sample(logits, slots, positions, state, variant, buffer)
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / REPLAYS * 1e3


def mismatches(name: str, vocab_size: int) -> int:
    """Of CHECKED_ROWS fresh rows, how many draw another token than the torch sampler."""
    variant, params = CASES[name]
    logits = model_like_logits(CHECKED_ROWS, vocab_size)
    slots = torch.arange(CHECKED_ROWS, dtype=torch.int32)
    results = []
    for sampler, device in ((load_sampler(logits.device), "cuda"), (TorchSampler(), "cpu")):
        state = state_of(params, CHECKED_ROWS, vocab_size, device)
        on_device = slots.to(device)
        tokens, _ = sampler.sample(logits.to(device), on_device, on_device * 3, state, variant)
        results.append(tokens.cpu())
    return int((results[0] != results[1]).sum())


def main() -> None:
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print(f"{'vocabulary':>10} {'batch':>5} " + " ".join(f"{name:>12}" for name in CASES))
    for vocab_size in VOCABULARIES:
        for rows in BATCHES:
            logits = model_like_logits(rows, vocab_size)
            cells = [time_case(name, rows, logits) for name in CASES]
            print(f"{vocab_size:>10} {rows:>5} " + " ".join(f"{cell:>12.1f}" for cell in cells))
        wrong = [mismatches(name, vocab_size) for name in CASES]
        print(f"{'':>10} wrong " + " ".join(f"{f'{count}/{CHECKED_ROWS}':>12}" for count in wrong))


if __name__ == "__main__":
    main()
