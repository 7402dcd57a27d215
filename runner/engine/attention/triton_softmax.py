"""Pieces that the Triton kernels share: masked loads, and the online softmax in units of log2, so that exp2 serves."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(ptr, rows, used, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Dense rows of DIM elements at offsets ``rows`` [N], as [N, BLOCK]; zeros where not ``used`` [N] and past DIM."""
    d = tl.arange(0, BLOCK)
    mask = used[:, None]
    if BLOCK > DIM:
        mask = mask & (d < DIM)[None, :]
    return tl.load(ptr + rows[:, None] + d[None, :], mask=mask, other=0.0)


@triton.jit
def capped(scores, scale, SOFT_CAP: tl.constexpr):
    """Raw dot products to log2 scores: scaled, and with SOFT_CAP > 0 bent to cap * tanh(score / cap)."""
    if SOFT_CAP > 0.0:
        # tanh(x) = 1 - 2 / (exp(2x) + 1), exact at both infinities.
        bent = 1.0 - 2.0 / (tl.exp2(scores * (scale * (2.0 * LOG2E / SOFT_CAP))) + 1.0)
        return bent * (SOFT_CAP * LOG2E)
    return scores * (scale * LOG2E)


@triton.jit
def accumulate(scores, value, peak, total, acc, PRECISION: tl.constexpr):
    """One tile: scores [M, N] (-inf where hidden), value [N, Dv]; peak [M], total [M], acc [M, Dv] so far."""
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    # A row that has seen nothing yet has no peak; -inf - -inf would be NaN.
    shift = tl.where(new_peak > float("-inf"), new_peak, 0.0)
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(peak - shift)
    total = total * decay + tl.sum(weights, 1)
    acc = tl.dot(weights.to(value.dtype), value, acc * decay[:, None], input_precision=PRECISION)
    return new_peak, total, acc


@triton.jit
def normalised(peak, total, acc, sink, HAS_SINKS: tl.constexpr):
    """The softmax's average, [M, Dv]; ``sink`` [M] are natural-scale logits that only add to the divisor."""
    if HAS_SINKS:
        sink = sink.to(tl.float32) * LOG2E
        new_peak = tl.maximum(peak, sink)
        decay = tl.exp2(peak - new_peak)
        total = total * decay + tl.exp2(sink - new_peak)
        acc = acc * decay[:, None]
    return acc / total[:, None]
