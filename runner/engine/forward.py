"""One forward of a bound model over packed tokens."""

from __future__ import annotations

from torch import Tensor, nn

from runner.engine.attention import AttentionBackend, AttentionBatch
from runner.engine.layers import LastTokens, StepContext


def forward(
    model: nn.Module,
    backend: AttentionBackend,
    context: StepContext,
    token_ids: Tensor,
    positions: Tensor,
    batch: AttentionBatch,
    keep: Tensor | None = None,
    last: LastTokens | None = None,
) -> Tensor:
    """Token ids and positions (integers [T]) -> logits [kept, V] of the tokens ``keep`` (int64), or of all.

    With ``last``, of a model whose last layer is `runner.engine.last_layer.LastLayer`, of these.
    """
    context.batch, context.last = batch, last
    backend.plan(batch)
    try:
        output = model(
            input_ids=token_ids.long()[None],
            position_ids=positions.long()[None],
            use_cache=False,
            logits_to_keep=0 if keep is None or last is not None else keep,
        )
    finally:
        context.batch = context.last = None
    logits: Tensor = output.logits[0]
    return logits
