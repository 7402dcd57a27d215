"""Stand-ins for the rooms around the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner.echo import EchoEngine
from runner.errors import EngineError
from runner.types import (
    Completion,
    EngineRequest,
    FinishReason,
    Request,
    RowError,
    RowResult,
    Sample,
    SampleKey,
    SamplingParams,
    SourceRow,
    Stage,
    TokenChunk,
)

NAMES = {name: name for name in ("row_id", "request_index", "sample_index", "completion", "seed", "finish_reason")}


@dataclass
class Rows:
    """A reader of rows whose prompt is their id; the ids in ``bad`` cannot be read."""

    num_rows: int
    bad: frozenset[int] = frozenset()

    def read(self, start: int, stop: int) -> Iterator[SourceRow | RowError]:
        for row_id in range(start, min(stop, self.num_rows)):
            if row_id in self.bad:
                yield RowError(row_id, Stage.READ, "bad_json", "not JSON")
            else:
                yield SourceRow(row_id, {"prompt": f"row {row_id}"})


@dataclass
class Span:
    start: int
    stop: int
    done: frozenset[int] = frozenset()
    redo: dict[int, frozenset[tuple[int | None, int | None]]] = field(default_factory=dict)


@dataclass
class Spans:
    """Ranges of seven rows."""

    num_rows: int
    done: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._left = [Span(start, start + 7, self.done) for start in range(0, self.num_rows, 7)]

    @property
    def ranges_left(self) -> int:
        return len(self._left)

    def take_range(self, *, is_hungry: bool = False) -> Span | None:
        return self._left.pop(0) if self._left else None


class Asked(Spans):
    """Keeps how it was asked; gives to the hungry, to others at the third time in a row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[bool] = []

    def take_range(self, *, is_hungry: bool = False) -> Span | None:
        self.asked.append(is_hungry)
        return super().take_range() if is_hungry or not any(self.asked[-3:]) else None


@dataclass
class Rendering:
    """Renders the prompt column to bytes."""

    sampling: SamplingParams = field(default_factory=SamplingParams)

    def render(self, rows: Sequence[SourceRow]) -> list[list[Request | RowError]]:
        return [
            [Request(row.row_id, 0, list(row.values["prompt"].encode()), self.sampling, row.values["prompt"])]
            for row in rows
        ]


class PlainJob:
    columns: ClassVar[dict[str, str]] = {}

    def prompt(self, row: dict[str, Any]) -> Any:
        raise AssertionError

    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any] | None:
        return {}


@dataclass
class Memory:
    """A writer that keeps everything."""

    results: list[RowResult] = field(default_factory=list)
    flushes: int = 0

    def write(self, result: RowResult) -> None:
        self.results.append(result)

    def flush(self) -> None:
        self.flushes += 1

    def texts(self) -> dict[int, list[str]]:
        return {result.row_id: [record["completion"] for record in result.records] for result in self.results}


class Fragile(EchoEngine):
    """Fails at the next poll once it holds a poisonous row; answers one request a poll, in reverse order."""

    def __init__(self, poison: frozenset[bytes] = frozenset()) -> None:
        super().__init__()
        self._poison = poison
        self._held: list[Sample] = []
        self.most_held = 0

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        super().submit(requests)
        poisoned = any(bytes(request.prompt_token_ids) in self._poison for request in requests)
        self._held += [] if poisoned else super().poll(0)
        self._broken = poisoned
        self.most_held = max(self.most_held, len(self._held))

    def poll(self, timeout: float) -> list[Sample]:
        if self._broken:
            raise EngineError("the engine process was killed by signal 9")
        return [self._held.pop()] if self._held else []


class Streaming(EchoEngine):
    """Repeats a prompt for ever, a token a poll, until it is told to end the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0
        self._running: dict[SampleKey, tuple[list[int], int]] = {}
        self._ended: list[Sample | TokenChunk] = []

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        assert all(request.stream for request in requests)
        self._running |= {(request.request_id, 0): (list(request.prompt_token_ids), 0) for request in requests}

    def poll(self, timeout: float) -> list[Sample | TokenChunk]:  # type: ignore[override]
        outputs, self._ended = self._ended, []
        for key, (prompt, count) in self._running.items():
            outputs.append(TokenChunk(*key, [prompt[count % len(prompt)]]))
            self._running[key] = prompt, count + 1
            self.longest = max(self.longest, count + 1)
        return outputs

    def abort(self, samples: Sequence[SampleKey]) -> None:
        for key in samples:
            prompt, count = self._running.pop(key)
            self._ended.append(Sample(*key, [prompt[i % len(prompt)] for i in range(count)], FinishReason.ABORT))


class Queued(EchoEngine):
    """Works on the first request alone, one a poll; the others wait and can be dropped."""

    def __init__(self, after_poll: Callable[[], None]) -> None:
        super().__init__()
        self._after_poll = after_poll
        self._dropped: list[Sample] = []

    def poll(self, timeout: float) -> list[Sample]:
        dropped, self._dropped = self._dropped, []
        self._waiting, rest = self._waiting[:1], self._waiting[1:]
        samples = super().poll(timeout)
        self._waiting = rest
        self._after_poll()
        return [*dropped, *samples]

    def drop_waiting(self) -> None:
        self._dropped = [Sample(request.request_id, 0, [], FinishReason.ABORT) for request in self._waiting[1:]]
        self._waiting = self._waiting[:1]
