"""When prompts are computed beside running rows, on a stream of their own.

A decode step of many rows reads their cache, a prompt computes: beside one another both take less than in turns. On an
H100 with an 8B model a second of both did 1.11 (512 rows) to 1.14 (256 rows) times what a second of turns does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.engine.graph_sizes import LAYERS

_FEWEST_ROWS = 192
_TOKENS_PER_ROW = 8
_LEAST_SECONDS = 0.05  # several times what the host takes to launch a step with prompts


@dataclass(frozen=True, slots=True)
class Beside:
    """From how many rows on, and how many prompt tokens beside them.

    The steps of fewer rows than ``fewest_rows`` wait for weights: they gain nothing. The tokens are about those that
    end with the rows, and no fewer than ``fewest_tokens``, since each step with prompts costs the host some time.
    """

    fewest_rows: int
    tokens_per_row: int
    fewest_tokens: int


def beside_by(costs: Mapping[int, float], num_layers: int) -> Beside:
    """``costs`` are the milliseconds of `linear_costs` by rows; the largest tell what a prompt's token takes."""
    size = max(costs)
    token_seconds = costs[size] / 1e3 / size * num_layers / min(LAYERS, num_layers)
    return Beside(_FEWEST_ROWS, _TOKENS_PER_ROW, int(_LEAST_SECONDS / token_seconds))
