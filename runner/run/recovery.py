"""An engine that fails is made anew, and the rows it held are retried so that a poisonous one gives itself away."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from runner.errors import EngineError
from runner.run.inflight import RowWork
from runner.types import EngineClient, EngineRequest, EngineStats, Sample, SampleKey, TokenChunk

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_LONE_CRASHES = 2


class Suspects:
    """Rows that were in flight at a crash: the next group is one row, then two, four, ... while all goes well.

    A row that was alone at a crash goes to the end and is retried alone; its second lone crash condemns it. So a
    transient failure costs a few small batches, and a poisonous row takes no innocent one along.
    """

    def __init__(self) -> None:
        self._queue: deque[RowWork] = deque()
        self._group_size = 1

    def __len__(self) -> int:
        return len(self._queue)

    def crashed(self, rows: Sequence[RowWork]) -> list[RowWork]:
        """Takes the rows of a crash back; returns those that are condemned."""
        if len(rows) != 1:
            return self.put_back(rows)
        self._group_size = 1
        rows[0].lone_crashes += 1
        if rows[0].lone_crashes >= MAX_LONE_CRASHES:
            return list(rows)
        self._queue.append(rows[0])
        return []

    def put_back(self, rows: Sequence[RowWork]) -> list[RowWork]:
        """Takes rows back that no one blames; condemns none."""
        self._group_size = 1
        self._queue.extendleft(reversed(rows))
        return []

    def next_group(self) -> list[RowWork]:
        """The rows to try together next; call it only when nothing is in flight."""
        if self._queue and self._queue[0].lone_crashes:
            return [self._queue.popleft()]
        group: list[RowWork] = []
        while self._queue and len(group) < self._group_size and not self._queue[0].lone_crashes:
            group.append(self._queue.popleft())
        self._group_size *= 2
        return group


class RestartingEngine:
    """The engine of a run and the factory of its successors. Made at the first use.

    As a context manager it ends the engine; when an error or an interrupt leaves the block, without waiting for it.
    """

    def __init__(self, factory: Callable[[], EngineClient]) -> None:
        self._factory = factory
        self._client: EngineClient | None = None
        self._has_served = False
        self._input_closed = False
        self.ready_since: float | None = None  # when the first engine took its first request, on the monotonic clock
        self._failures = 0  # since the last sample that came back

    def start(self) -> EngineClient:
        """The running engine; one is made if there is none. Raises EngineError as its factory does."""
        if self._client is None:
            self._client = self._factory()
        return self._client

    def wait_until_ready(self) -> None:
        """Returns once an engine has loaded its model. Raises ConfigError when it refuses, EngineError as `failed`."""
        while True:
            try:
                self.start().submit(())
            except EngineError as error:
                self.failed(error)
            else:
                return

    @property
    def has_served(self) -> bool:
        """Whether the present engine ever took a request: one that fails before cannot be a row's fault."""
        return self._has_served

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self.start().submit(requests)
        self._has_served = True
        self._input_closed = False
        self.ready_since = self.ready_since or time.monotonic()

    def poll(self, timeout: float) -> Sequence[Sample | TokenChunk]:
        outputs = self.start().poll(timeout)
        if any(isinstance(output, Sample) for output in outputs):
            self._failures = 0
        return outputs

    def abort(self, samples: Sequence[SampleKey]) -> None:
        if samples:
            self.start().abort(samples)

    def drop_waiting(self) -> None:
        if self._client is not None:
            self._client.drop_waiting()

    def close_input(self) -> None:
        """Tells the present engine, once after each submission, that no more requests will come for now."""
        if self._client is not None and not self._input_closed:
            self._client.close_input()
            self._input_closed = True

    def stats(self) -> EngineStats:
        return self._client.stats() if self._client is not None else EngineStats()

    def failed(self, error: EngineError) -> None:
        """Drops the failed engine; raises EngineError after MAX_FAILURES without a sample in between."""
        self.close()
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise EngineError(f"the engine failed {self._failures} times without progress; the last time: {error}")
        logger.warning("the engine failed and is started again (%d of %d): %s", self._failures, MAX_FAILURES, error)

    def __enter__(self) -> RestartingEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None and self._client is not None:
            self._client.kill()
        self.close()

    def close(self) -> None:
        client, self._client = self._client, None
        self._has_served = self._input_closed = False
        if client is not None:
            client.close()
