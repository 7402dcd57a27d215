"""A step's way back to the host: one packet of int32 with the token and the status of every row that was sampled.

Behind them, in steps in which a row asked, the log probabilities: for each row its token's, then pairs of a token and
its log probability, best first. A row that asked for fewer than its step has takes the first of them.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runner.engine.sampler import LogprobsBuffer
from runner.limits import MAX_LOGPROBS

_WIDTHS = (0, 1, 2, 5, 10, MAX_LOGPROBS)
"""How many of the best tokens a step may work out: a kernel is compiled for each, so they are few."""


@dataclass(frozen=True, slots=True)
class ResultLayout:
    """Where the results of ``num_rows`` rows lie; ``num_top`` is None in a step without log probabilities."""

    num_rows: int
    num_top: int | None = None

    @property
    def size(self) -> int:
        """In int32."""
        return self.num_rows * (2 + logprob_words(self.num_top))

    def write(self, out: Tensor, tokens: Tensor, status: Tensor, logprobs: LogprobsBuffer | None) -> None:
        """Fills ``out`` on the device; what there is beyond ``num_rows`` rows is padding."""
        count = self.num_rows
        torch.cat((tokens[:count], status[:count]), out=out[: 2 * count])
        if logprobs is not None:
            rows = out[2 * count : self.size].view(count, -1)
            rows[:, 0] = logprobs.sampled[:count].view(torch.int32)
            rows[:, 1::2] = logprobs.token_ids[:count]
            rows[:, 2::2] = logprobs.logprobs[:count].view(torch.int32)

    def read(self, words: np.ndarray) -> StepResults:
        """A copy of what `write` has written."""
        count = self.num_rows
        values = words[: self.size].copy()
        logprobs = None if self.num_top is None else values[2 * count :].reshape(count, -1)
        return StepResults(values[:count], values[count : 2 * count], logprobs)


@dataclass(frozen=True, slots=True)
class StepResults:
    """What became of the rows that a step sampled, in the order of ``plan.sampled``."""

    tokens: np.ndarray  # int32 [S]
    status: np.ndarray  # int32 [S] of `runner.engine.sampler.Status`
    logprobs: np.ndarray | None = None  # int32 [S, logprob_words(num_top)]


def logprob_words(num_top: int | None) -> int:
    """The int32 that the log probabilities of one token take: its own and pairs."""
    return 0 if num_top is None else 1 + 2 * num_top


def step_width(words: np.ndarray) -> int | None:
    """How many of the best tokens a step works out whose rows asked for ``words`` (`logprob_words`); None for none."""
    most = int(words.max(initial=0))
    return _WIDTHS[bisect.bisect_left(_WIDTHS, most // 2)] if most else None


def most_words(num_rows: int) -> int:
    """The largest results that ``num_rows`` rows can have, in int32."""
    return ResultLayout(num_rows, MAX_LOGPROBS).size
