"""How many KV blocks fit: measured, not guessed."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from runner.config import EngineConfig
from runner.engine.attention import AttentionBackend, AttentionBatch, AttentionSpec
from runner.engine.forward import forward
from runner.engine.layers import StepContext
from runner.engine.scheduler_config import SchedulerConfig
from runner.errors import ConfigError

log = logging.getLogger(__name__)

Step = tuple[Tensor, Tensor, Tensor, AttentionBatch]  # token ids, positions, places to sample from, batch
FIRST_TOKENS = 61  # no width of any model: the compiler would take two sizes that are equal for one
_MARGIN_BYTES = 512 << 20  # graphs' own structures, kernels that are loaded late, fragmentation


def block_bytes(specs: list[AttentionSpec], block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one KV block over all layers."""
    return sum(s.num_kv_heads * (s.head_dim + s.value_dim) for s in specs) * dtype.itemsize * block_size


def cpu_blocks(engine: EngineConfig, bytes_per_block: int) -> int:
    return int(engine.cpu_kv_cache_gib * 2**30) // bytes_per_block


def first_step(
    model: PreTrainedModel, backend: AttentionBackend, context: StepContext, config: SchedulerConfig
) -> None:
    """Runs a small prefill: torch's compiler does its work then, not in the first rows' step."""
    _forward(
        model, backend, context, _prefill(config, min(FIRST_TOKENS, config.max_num_batched_tokens), backend.device)
    )


def cuda_blocks(
    model: PreTrainedModel,
    backend: AttentionBackend,
    context: StepContext,
    config: SchedulerConfig,
    utilization: float,
    bytes_per_block: int,
) -> int:
    """Runs the largest prefill and the largest decode step, and gives what they leave of the card to the cache.

    ``utilization`` is engine.gpu_memory_utilization. The layers must be bound to caches of at least one block, and
    nothing else may allocate meanwhile. Raises ConfigError when not one sequence fits.
    """
    device, max_tokens = backend.device, config.max_num_batched_tokens
    peak = _peak_bytes(model, backend, context, _prefill(config, max_tokens, device))
    # Decode steps run from graphs, whose memory is a pool of its own.
    peak += _peak_bytes(model, backend, context, _rows(config, device))
    free, total = torch.cuda.mem_get_info(device)
    budget = free - int((1 - utilization) * total) - peak - _MARGIN_BYTES
    blocks = budget // bytes_per_block
    if blocks * config.block_size < min(config.max_model_len, max_tokens):
        raise ConfigError(
            f"engine.gpu_memory_utilization={utilization}: {free / 2**30:.1f} GiB are free beside "
            f"the weights, steps need {peak / 2**30:.1f}, and too little is left for the KV cache; raise it, lower "
            "engine.max_num_batched_tokens or choose a smaller model"
        )
    log.info("KV cache: %d blocks of %d tokens, %.1f GiB", blocks, config.block_size, blocks * bytes_per_block / 2**30)
    return blocks


def _peak_bytes(model: PreTrainedModel, backend: AttentionBackend, context: StepContext, step: Step) -> int:
    """What one step takes beside weights and cache."""
    device = backend.device
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _forward(model, backend, context, step)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak


def _forward(model: PreTrainedModel, backend: AttentionBackend, context: StepContext, step: Step) -> None:
    token_ids, positions, keep, batch = step
    with torch.inference_mode():
        forward(model, backend, context, token_ids, positions, batch, keep).argmax(-1)


def _prefill(config: SchedulerConfig, tokens: int, device: torch.device) -> Step:
    """That many fresh tokens in as few prompts as may be, all written to block 0."""
    count = max(1, -(-tokens // config.max_model_len))
    ends = torch.linspace(0, tokens, count + 1, device=device).int()
    lens = ends.diff()
    ids = torch.zeros(tokens, dtype=torch.long, device=device)
    batch = AttentionBatch(
        slot_mapping=torch.zeros(tokens, dtype=torch.long, device=device),
        block_table=torch.zeros(count, config.max_blocks_per_sequence, dtype=torch.int32, device=device),
        block_size=config.block_size,
        num_prefill=count,
        prefill_rows=torch.arange(count, dtype=torch.int32, device=device),
        cu_seqlens_q=ends,
        seq_lens=lens,
        max_seqlen_q=int(lens.max()),
        max_seqlen_k=int(lens.max()),
        fresh=True,
    )
    return ids, ids, torch.arange(min(config.max_num_seqs, tokens), device=device), batch


def _rows(config: SchedulerConfig, device: torch.device) -> Step:
    """As many decode rows as may be, of one token each, all in block 0."""
    count = min(config.max_num_seqs, config.max_num_batched_tokens)
    ids = torch.zeros(count, dtype=torch.long, device=device)
    batch = AttentionBatch(
        slot_mapping=ids,
        block_table=torch.zeros(1, config.max_blocks_per_sequence, dtype=torch.int32, device=device),
        block_size=config.block_size,
        num_decode=count,
        rows=ids.int(),
        decode_lens=torch.ones(count, dtype=torch.int32, device=device),
    )
    return ids, ids, torch.arange(count, device=device), batch
