"""What edits and filters do to one row of logits, in plain torch.

The order is transformers': bias, penalties, banned tokens, temperature, top-k, top-p, min-p. Filters are found as one
threshold on the edited logits, since dividing by the temperature keeps their order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler.edits import COUNT_SHIFT, EditPool

NEGATIVE_INFINITY = float("-inf")
BLOCK = 64
"""Logits reduced together where only their maximum is needed at first."""
FIRST_NUCLEUS = 256
"""How many of the best tokens are sorted at first to find the nucleus; usually it is smaller."""


def edited_logits(logits: Tensor, params: np.ndarray, position: int, pool: EditPool | None) -> Tensor:
    """A float32 copy of one row of logits [V] with min_tokens, bias and penalties applied."""
    x = logits.to(torch.float32, copy=True)
    row = int(params["edit_row"])
    if pool is not None and row >= 0:
        if pool.bias is not None:
            x += pool.bias[row]
        if pool.counts is not None:
            _penalize(x, pool.counts[row], params)
    if position < params["min_position"]:
        stop_ids = params["stop_ids"]
        masked = stop_ids[(stop_ids >= 0) & (stop_ids < len(x))].tolist()
        x[masked] = NEGATIVE_INFINITY
    return x


def _penalize(x: Tensor, counts: Tensor, params: np.ndarray) -> None:
    """Repetition over prompt and outputs, presence and frequency over outputs, as vLLM and transformers have them."""
    repetition = float(params["repetition_penalty"])
    outputs = counts >> COUNT_SHIFT
    x.copy_(torch.where(counts != 0, torch.where(x > 0, x / repetition, x * repetition), x))
    x -= float(params["frequency_penalty"]) * outputs + float(params["presence_penalty"]) * (outputs > 0)


def first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """(value, lowest index of it) of each row of x [N, V]; a NaN is the largest.

    Maxima of blocks and then the index in one block: torch reduces values several times faster than it finds indices.
    """
    if x.shape[1] % BLOCK:
        index = x.argmax(1)
    else:
        blocks = x.view(len(x), x.shape[1] // BLOCK, BLOCK)
        block = blocks.amax(2).argmax(1)
        index = block * BLOCK + blocks[torch.arange(len(x), device=x.device), block].argmax(1)
    return x.gather(1, index[:, None])[:, 0], index


def _best(x: Tensor, count: int) -> Tensor:
    """At least ``count`` of the largest values of x [V], falling, and all that equal the last of them.

    The count-th largest block maximum bounds the count-th largest value from below, so few values are sorted.
    """
    if 2 * count * BLOCK <= len(x):
        maxima = x[: len(x) // BLOCK * BLOCK].view(-1, BLOCK).amax(1)
        bound = maxima.topk(count).values[-1]
    else:
        bound = x.topk(count).values[-1]
    return x[x >= bound].sort(descending=True).values


def kept_floor(x: Tensor, params: np.ndarray) -> float:
    """The smallest logit that top-k, top-p and min-p keep in a row of edited logits [V]; ties are kept.

    Top-p keeps a token when the tokens above it hold less than top_p of what top-k left.
    """
    top = float(x.max())
    floor = NEGATIVE_INFINITY
    if 0 < params["top_k"] < len(x):
        count = int(params["top_k"])
        best = _best(x, count)
        floor = float(best[count - 1])
        x = best[best >= floor]
    if params["top_p"] < 1:
        floor = max(floor, _nucleus_floor(x, top, params))
    if params["min_p"] > 0:
        floor = max(floor, top + float(np.log(params["min_p"]) * params["temperature"]))
    return floor


def _nucleus_floor(x: Tensor, top: float, params: np.ndarray) -> float:
    """The smallest logit of the nucleus of x [N], whose largest is ``top``."""
    inverse = 1.0 / float(params["temperature"])
    needed = float(params["top_p"]) * float(((x - top) * inverse).exp_().sum(dtype=torch.float64))
    count = min(FIRST_NUCLEUS, len(x))
    while True:
        best = _best(x, count)
        mass = ((best - top) * inverse).exp_().cumsum(0, dtype=torch.float64)
        inside = int((mass < needed).sum())
        if inside < len(best) or len(best) == len(x):
            return float(best[min(inside, len(best) - 1)])
        count = min(8 * count, len(x))
