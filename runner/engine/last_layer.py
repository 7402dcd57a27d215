"""Computes the last layer of a step of prompts for the tokens that are sampled from alone.

Of all others that layer is needed for its keys and values only. So it runs twice: over all tokens until its attention
has written these, and then as a whole over the last token of each prompt. Nothing of the model's code changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from runner.engine.attention import AttentionBackend, AttentionBatch
from runner.engine.forward import forward
from runner.engine.layers import KeysWritten, LastTokens, StepContext
from runner.engine.probe import FORWARD_ERRORS, decoder_layers, error_limit, logits_errors
from runner.engine.scheduler_config import SchedulerConfig
from runner.errors import ConfigError

log = logging.getLogger(__name__)

_LENGTHS = 19, 40  # tokens of two prompts


class LastLayer(nn.Module):
    """Stands in for a decoder layer."""

    def __init__(self, layer: nn.Module, context: StepContext, plan: Callable[[AttentionBatch], None]) -> None:
        """``plan`` is told of the batch of last tokens before it runs."""
        super().__init__()
        self.layer = layer
        self._context = context
        self._plan = plan

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """hidden_states [1, T, E] -> what the layer returns, for the tokens alone that the context's ``last`` names."""
        last = self._context.last
        if last is None:
            return self.layer(hidden_states, *args, **kwargs)
        self._context.writes_alone = True
        try:
            self.layer(hidden_states, *args, **kwargs)
        except KeysWritten:
            pass
        finally:
            self._context.writes_alone = False
        self._context.batch = last.batch
        self._plan(last.batch)
        num_tokens = hidden_states.shape[1]

        def take(value: Any) -> Any:
            per_token = isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] == (1, num_tokens)
            return value[:, last.index] if per_token else value

        return self.layer(*tree_map(take, (hidden_states, *args)), **tree_map(take, kwargs))

    def __getattr__(self, name: str) -> Any:
        """The model may ask its layer for what kind it is."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def install(model: PreTrainedModel, context: StepContext, plan: Callable[[AttentionBatch], None]) -> None:
    """Replaces the last decoder layer of a probed model."""
    layer = decoder_layers(model)[-1]
    path = next(path for path, module in model.named_modules() if module is layer)
    model.set_submodule(path, LastLayer(layer, context, plan))


def last_tokens(step: AttentionBatch, index: Tensor, slots: Tensor, lengths: Tensor) -> LastTokens:
    """Tokens ``index`` [K] of a step of prompts, the last of those of ``slots``, as chunks of one token each.

    ``lengths`` are their contexts with this token. All integers on the device, but for ``index`` int32.
    """
    count = len(index)
    batch = replace(
        step,
        slot_mapping=step.slot_mapping[index],
        num_prefill=count,
        prefill_rows=slots,
        cu_seqlens_q=torch.arange(count + 1, dtype=torch.int32, device=index.device),
        seq_lens=lengths,
        max_seqlen_q=1,
        fresh=False,
    )
    return LastTokens(index, batch)


@torch.inference_mode()
def agrees(model: PreTrainedModel, backend: AttentionBackend, context: StepContext, config: SchedulerConfig) -> bool:
    """Whether a model bound to its cache gives the logits of two prompts with its last layer computed either way.

    Writes to blocks 0 and following, so no sequence may be in them; a cache of too few says no. A model may do with
    its layers what we do not foresee, or in 16 bits send a token to other experts; its last layer stays whole then.
    """
    if sum(_blocks_of(config.block_size)) > config.num_blocks:
        return False
    ids, positions, batch, index = _two_prompts(config, model.device)

    whole = forward(model, backend, context, ids, positions, batch, index)
    assert batch.prefill_rows is not None and batch.seq_lens is not None
    try:
        last = last_tokens(batch, index, batch.prefill_rows, batch.seq_lens)
        alone = forward(model, backend, context, ids, positions, batch, index, last)
        error = logits_errors(alone.float(), whole.float()).max()
        if not error <= error_limit(model.dtype):  # not <=: a NaN fails too
            raise ConfigError(f"the last tokens alone gave other logits (relative error {error:.2g})")
    except torch.OutOfMemoryError:
        raise
    except (ConfigError, *FORWARD_ERRORS) as error:
        log.info("the last layer of %s is computed for all tokens: %s", type(model).__name__, error)
        return False
    return True


def _blocks_of(block_size: int) -> list[int]:
    return [-(-length // block_size) for length in _LENGTHS]


def _two_prompts(config: SchedulerConfig, device: torch.device) -> tuple[Tensor, Tensor, AttentionBatch, Tensor]:
    """(token ids [T], positions [T], the batch, the places of the last tokens [2]), in blocks 0 and following."""
    block_size = config.block_size
    blocks = _blocks_of(block_size)
    starts = [0, blocks[0]]
    table = torch.zeros(2, max(config.max_blocks_per_sequence, *blocks), dtype=torch.int32)  # as wide as that of steps
    for row, (start, count) in enumerate(zip(starts, blocks, strict=True)):
        table[row, :count] = torch.arange(start, start + count)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])
    mapping = [start * block_size + torch.arange(length) for start, length in zip(starts, _LENGTHS, strict=True)]
    lengths = torch.tensor(_LENGTHS, dtype=torch.int32)
    ends = lengths.cumsum(0)
    batch = AttentionBatch(
        slot_mapping=torch.cat(mapping).to(device),
        block_table=table.to(device),
        block_size=block_size,
        num_prefill=len(_LENGTHS),
        prefill_rows=torch.arange(len(_LENGTHS), dtype=torch.int32, device=device),
        cu_seqlens_q=torch.tensor([0, *ends.tolist()], dtype=torch.int32, device=device),
        seq_lens=lengths.to(device),
        max_seqlen_q=max(_LENGTHS),
        max_seqlen_k=max(_LENGTHS),
        fresh=True,
    )
    ids = torch.arange(sum(_LENGTHS), device=device) % 97 + 3
    return ids, positions.to(device), batch, (ends - 1).to(device)
