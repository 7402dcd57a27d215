"""The loop of a run: admit rows, poll the engine, finish rows, write results; until all is done or a stop is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from runner.errors import EngineError
from runner.report.guard import QualityGuard
from runner.report.progress import Progress
from runner.run.budget import ErrorBudget
from runner.run.finishing import Finisher, quarantined
from runner.run.inflight import InFlight, RowWork
from runner.run.recovery import RestartingEngine, Suspects
from runner.run.source import WorkSource
from runner.run.stop_strings import StopStringWatch
from runner.run.time_limit import TimeLimit
from runner.signals import Stop, StopFlag
from runner.types import FinishReason, RowResult, Sample, TokenChunk

logger = logging.getLogger(__name__)

BATCH_ROWS = 256  # rendered and submitted between two polls, at most
REFILL_SHARE = 0.75  # rows are admitted once fewer than this share of the samples allowed is in flight
IDLE_SECONDS = 0.2  # longest wait for samples, and so for a stop to be seen


class ResultWriter(Protocol):
    """Where finished rows go."""

    def write(self, result: RowResult) -> None: ...

    def flush(self) -> None: ...


class Loop:
    """Holds everything that a run is made of; ``max_samples`` bounds what is in flight, and so the memory."""

    def __init__(
        self,
        source: WorkSource,
        engine: RestartingEngine,
        finisher: Finisher,
        watch: StopStringWatch,
        writer: ResultWriter,
        inflight: InFlight,
        budget: ErrorBudget,
        guard: QualityGuard,
        progress: Progress,
        stop: StopFlag,
        max_samples: int,
        samples_per_row: int = 1,
        clock: Callable[[], float] = time.monotonic,
        time_limit: TimeLimit | None = None,
    ) -> None:
        self._source = source
        self._engine = engine
        self._finisher = finisher
        self._watch = watch
        self._writer = writer
        self._inflight = inflight
        self._budget = budget
        self._guard = guard
        self._progress = progress
        self._stop = stop
        self._max_samples = max_samples
        self._samples_per_row = samples_per_row
        self._clock = clock
        self._time_limit = time_limit or TimeLimit()
        self._suspects = Suspects()
        self._deadline = float("inf")
        self._stop_seen = Stop.NONE
        self._leaves_rows = False  # rows were taken up that this run will not do: a later one does them

    def run(self) -> bool:
        """True when every row is written, False when it was stopped before; raises what ends a run early."""
        while not self._is_done():
            self._heed_stop()
            if self._clock() >= self._deadline or (self._is_closing and not self._inflight.num_rows):
                break
            try:
                admitted = self._admit()
                if self._source.is_dry or self._time_limit.is_closed:
                    self._engine.close_input()
                if self._inflight.num_rows:
                    # No wait while rows flow in: the engine must never run dry behind a slow poll.
                    self._progress.enter("wait")
                    outputs = self._engine.poll(0.0 if admitted and self._has_room() else IDLE_SECONDS)
                    self._progress.enter("finish")
                    self._take(outputs)
            except EngineError as error:
                self._recover(error)
            self._progress.show(self._engine.stats())
        self._writer.flush()
        return self._is_done()

    def _is_done(self) -> bool:
        is_empty = self._source.exhausted and not self._inflight.num_rows and not self._suspects
        return is_empty and not self._leaves_rows

    @property
    def _is_closing(self) -> bool:
        """No further rows are taken up."""
        return self._stop.requested or self._time_limit.is_closed

    def _heed_stop(self) -> None:
        """At a new stop request, makes durable what there is and sets the time until which rows may finish."""
        if self._time_limit.has_passed and self._stop.level < Stop.BRIEF:
            logger.info("the time limit is near: stopping")
            self._stop.request(Stop.BRIEF)
        if self._stop.level > self._stop_seen:
            self._stop_seen = self._stop.level
            self._deadline = self._clock() + self._stop.drain_seconds
            self._writer.flush()
            self._engine.drop_waiting()
            if self._stop_seen is Stop.DRAIN and self._inflight.num_rows:
                logger.warning("interrupted: finishing the answers in progress first; Ctrl-C again stops at once")

    def _has_room(self) -> bool:
        return self._inflight.num_samples <= REFILL_SHARE * self._max_samples and not self._is_closing

    def _is_hungry(self) -> bool:
        """Whether the engine runs all that it was given; while news of that are late it is not asked to take more."""
        stats = self._engine.stats()
        return not stats.num_waiting and stats.num_running >= self._inflight.num_samples

    def _admit(self) -> bool:
        """Submits the next batch of rows; after a crash, the next group of suspects once the last one is back."""
        if self._suspects:
            if not self._inflight.num_rows and not self._is_closing:
                self._submit(self._suspects.next_group())
            return False
        if not self._has_room() or self._source.exhausted:
            return False
        room = (self._max_samples - self._inflight.num_samples) // self._samples_per_row
        self._progress.enter("read")
        batch = self._source.read(max(1, min(room, BATCH_ROWS)), is_hungry=self._is_hungry())
        self._progress.enter("render")
        works, ended = self._source.render(batch)
        self._progress.add_taken(len(batch), sum(len(work.pending) for work in works))
        self._write(ended)
        fitting = self._time_limit.admit(works)
        self._leaves_rows |= len(fitting) < len(works)
        self._submit(fitting)
        return bool(fitting or ended)

    def _submit(self, works: list[RowWork]) -> None:
        requests = [request for work in works for request in self._inflight.add(work)]
        if requests:
            self._progress.enter("wait")
            self._engine.submit(requests)

    def _take(self, outputs: Sequence[Sample | TokenChunk]) -> None:
        """Adds samples to their rows and writes the rows that are complete."""
        chunks = [output for output in outputs if isinstance(output, TokenChunk)]
        self._engine.abort(self._watch.stopped(chunks, self._inflight))
        finished = []
        for sample in outputs:
            if isinstance(sample, TokenChunk):
                continue
            if sample.finish_reason is FinishReason.ABORT and not self._watch.has_ended(sample):
                self._inflight.withdraw(sample.request_id)  # dropped for a stop
                self._leaves_rows = True
                continue
            self._watch.forget((sample.request_id, sample.sample_index))
            ticket = self._inflight.settle(sample)
            if ticket is None:
                continue
            self._time_limit.add(ticket.work, len(sample.token_ids))
            self._progress.add_sample(self._finisher.take(ticket, sample))
            if not ticket.work.pending:
                finished.append(ticket.work.result)
        self._write(finished)

    def _write(self, results: list[RowResult]) -> None:
        self._progress.enter("write")
        for result in results:
            self._budget.add(result)
            self._progress.add_row(result)
            self._writer.write(result)
        self._budget.check()
        self._guard.check()

    def _recover(self, error: EngineError) -> None:
        """Takes back what the failed engine held and goes on with a new one."""
        rows = self._inflight.take_all()
        self._watch.forget_all()
        condemned = self._suspects.crashed(rows) if self._engine.has_served else self._suspects.put_back(rows)
        self._write([quarantined(work, f"alone with this row the engine failed twice: {error}") for work in condemned])
        self._engine.failed(error)
