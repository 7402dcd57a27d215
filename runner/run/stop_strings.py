"""Ends a sample in the engine as soon as a stop string stands in its text."""

from __future__ import annotations

from collections.abc import Iterable

from runner.run.inflight import InFlight, Ticket
from runner.text import StopMatcher
from runner.types import Sample, SampleKey, SamplingParams, TokenChunk, Tokenizer


def stop_matcher(tokenizer: Tokenizer, sampling: SamplingParams) -> StopMatcher:
    """A matcher for one sample of a request that has stop strings."""
    return StopMatcher(
        tokenizer,
        sampling.stop,
        include_stop=sampling.include_stop_str_in_output,
        skip_special_tokens=sampling.skip_special_tokens,
    )


class StopStringWatch:
    """Follows the samples that stream. It only saves work: the text is cut where the sample is finished."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._matchers: dict[SampleKey, StopMatcher] = {}
        self._ended: set[SampleKey] = set()

    def stopped(self, chunks: Iterable[TokenChunk], inflight: InFlight) -> list[SampleKey]:
        """The samples that may end now."""
        ended = []
        for chunk in chunks:
            ticket = inflight.ticket(chunk.request_id)
            key = chunk.request_id, chunk.sample_index
            if ticket is not None and self._matcher(key, ticket).push(chunk.token_ids):
                ended.append(key)
        self._ended.update(ended)
        return ended

    def has_ended(self, sample: Sample) -> bool:
        """Whether it was this watch that asked for the sample's end."""
        return (sample.request_id, sample.sample_index) in self._ended

    def forget(self, key: SampleKey) -> None:
        """The sample is back."""
        self._matchers.pop(key, None)
        self._ended.discard(key)

    def forget_all(self) -> None:
        """The engine that streamed is gone."""
        self._matchers.clear()
        self._ended.clear()

    def _matcher(self, key: SampleKey, ticket: Ticket) -> StopMatcher:
        if key not in self._matchers:
            self._matchers[key] = stop_matcher(self._tokenizer, ticket.request.sampling)
        return self._matchers[key]
