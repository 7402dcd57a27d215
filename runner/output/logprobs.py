"""The ``logprobs`` column: for each token of an answer the logarithm of its probability, and the best ones."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

_TOKEN = (("token_id", pa.int32()), ("logprob", pa.float32()))

LOGPROBS = pa.list_(pa.struct([*_TOKEN, ("top", pa.list_(pa.struct(_TOKEN)))]))
"""One struct a token, as `runner.types.Logprobs.entries` makes them; null where a request did not ask."""

_ASKS = frozenset({"logprobs", "top_logprobs"})


def may_ask_logprobs(source: pa.Schema, columns: Sequence[str]) -> bool:
    """Whether rows may ask for log probabilities in one of these columns of the source: text may hold any options."""
    kinds = [source.field(name).type for name in columns if name in source.names]
    return any(not pa.types.is_struct(kind) or _ASKS & {field.name for field in kind.fields} for kind in kinds)
