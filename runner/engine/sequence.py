"""One sample on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runner.engine.block_manager import hash_blocks
from runner.types import Logprobs, SampleKey, SamplingParams


@dataclass(slots=True, eq=False)
class Prompt:
    """The prompt ids of one request, shared by its samples, with their block hashes once asked for."""

    token_ids: np.ndarray  # [P] int32
    salt: bytes | None  # what the hash chain starts from; None: this prompt's blocks are not shared
    _chain: list[bytes] | None = None

    def chain(self, block_size: int) -> list[bytes]:
        if self._chain is None:
            self._chain = [] if self.salt is None else hash_blocks(self.token_ids, block_size, self.salt)
        return self._chain


@dataclass(slots=True, eq=False)
class Sequence:
    """A sample: its prompt, how it is sampled, and, while it has one, its slot."""

    request_id: int
    sample_index: int
    prompt: Prompt
    sampling: SamplingParams
    seed: int
    limit: int  # prompt + most output tokens
    outputs: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # made before a preemption
    logprobs: bytearray = field(default_factory=bytearray)  # of all accepted tokens, where the request asked
    stream: bool = False
    num_streamed: int = 0  # output tokens that were sent ahead of the sample
    slot: int = -1
    num_scheduled: int = 0  # tokens of `token_ids` whose prefill has been scheduled

    @property
    def key(self) -> SampleKey:
        return self.request_id, self.sample_index

    def returned_logprobs(self) -> Logprobs | None:
        """As the sample carries them."""
        num_top = self.sampling.logprobs
        return None if num_top is None else Logprobs(num_top, bytes(self.logprobs))

    @property
    def token_ids(self) -> np.ndarray:
        """What a prefill computes: the prompt, and after a preemption what was already made."""
        return np.concatenate([self.prompt.token_ids, self.outputs]) if len(self.outputs) else self.prompt.token_ids

    @property
    def num_prefill_tokens(self) -> int:
        return len(self.prompt.token_ids) + len(self.outputs)
