"""The stand-in engine and its tokenizer: a whole run without a model, for dry runs and tests.

With engine=echo a token is a byte, whatever model.path says: nothing is loaded and nothing is downloaded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from runner.text import ByteTokenizer, RenderedChat
from runner.types import EngineRequest, EngineStats, FinishReason, Logprobs, Message, Sample, SampleKey

_LETTERS = b"abcdefghijklmnop"  # one for each four bits of a seed


class EchoTokenizer(ByteTokenizer):
    """Bytes as ids, and a chat template of its own: one `role: content` line a message."""

    has_chat_template = True

    def render_chat(self, messages: list[Message], **template_kwargs: Any) -> RenderedChat:
        lines = [f"{message['role']}: {message.get('content', '')}\n" for message in messages]
        text = "".join((*lines, "assistant:"))
        return RenderedChat(text, (text,))


class EchoEngine:
    """An EngineClient that answers with the prompt, at the next poll.

    A greedy sample is the prompt's ids, any other has four letters of its seed before them; both are cut at
    max_tokens, and repeated up to it with ignore_eos. Nothing is left to chance: log probabilities are 0.
    """

    def __init__(self) -> None:
        self._waiting: list[EngineRequest] = []
        self._stats = EngineStats()

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self._waiting.extend(requests)

    def poll(self, timeout: float) -> list[Sample]:
        """Every sample of what was submitted; never waits."""
        requests, self._waiting = self._waiting, []
        samples = [
            _echo(request, index, seed)
            for request in requests
            for index, seed in zip(request.sample_indices, request.seeds, strict=True)
        ]
        self._stats.steps += bool(samples)
        self._stats.prompt_tokens += sum(len(request.prompt_token_ids) for request in requests)
        self._stats.completion_tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    def abort(self, samples: Sequence[SampleKey]) -> None:
        gone = {request_id for request_id, _ in samples}
        self._waiting = [request for request in self._waiting if request.request_id not in gone]

    def drop_waiting(self) -> None:
        """Nothing waits here."""

    def close_input(self) -> None:
        """Nothing waits here."""

    def stats(self) -> EngineStats:
        self._stats.num_waiting = len(self._waiting)
        return self._stats

    def kill(self) -> None:
        """Nothing runs here."""

    def close(self) -> None:
        self._waiting.clear()


def _echo(request: EngineRequest, sample_index: int, seed: int) -> Sample:
    sampling = request.sampling
    answer = [_LETTERS[seed >> shift & 15] for shift in (12, 8, 4, 0)] if sampling.temperature > 0 else []
    whole = len(answer) + len(request.prompt_token_ids) <= sampling.max_tokens and not sampling.ignore_eos
    answer.extend(request.prompt_token_ids[: sampling.max_tokens])
    if sampling.ignore_eos:
        answer *= -(-sampling.max_tokens // len(answer))
    reason = FinishReason.STOP if whole else FinishReason.LENGTH
    answer = answer[: sampling.max_tokens]
    return Sample(request.request_id, sample_index, answer, reason, logprobs=_logprobs(answer, sampling.logprobs))


def _logprobs(answer: Sequence[int], num_top: int | None) -> Logprobs | None:
    """No token but the one of the answer could have stood in its place."""
    if num_top is None:
        return None
    none = struct.pack("<if", -1, -math.inf)
    rows = [struct.pack("<fif", 0.0, token, 0.0) + none * (num_top - 1) if num_top else bytes(4) for token in answer]
    return Logprobs(num_top, b"".join(rows))
