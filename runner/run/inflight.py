"""The rows that the engine works on: what each still waits for, and under which request id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from runner.seeds import seed_of
from runner.types import EngineRequest, Request, RowResult, Sample, SourceRow


@dataclass(slots=True, eq=False)
class RowWork:
    """One rendered row. ``pending`` are the samples not back yet, as (request_index, sample_index); all by default."""

    row: SourceRow
    requests: list[Request]
    result: RowResult
    pending: set[tuple[int, int]] = field(default_factory=set)
    is_partial: bool = field(init=False)  # other samples of the row are done, and stay
    lone_crashes: int = 0  # engine crashes while this row was the only one in flight

    def __post_init__(self) -> None:
        self.is_partial = bool(self.pending)
        if not self.is_partial:
            self.pending = {(request.request_index, i) for request in self.requests for i in range(request.sampling.n)}


@dataclass(slots=True, frozen=True)
class Ticket:
    """Whose a request id is, with the seed of each sample asked for under it."""

    work: RowWork
    request: Request
    seeds: dict[int, int]


class InFlight:
    """Hands out request ids and finds the row of a sample that comes back."""

    def __init__(self, run_seed: int) -> None:
        self._run_seed = run_seed
        self._ids = count()
        self._tickets: dict[int, Ticket] = {}
        self._rows: dict[int, RowWork] = {}
        self.num_samples = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def add(self, work: RowWork) -> list[EngineRequest]:
        """Takes up a row and returns the requests for what it still waits for, in order."""
        self._rows[work.row.row_id] = work
        self.num_samples += len(work.pending)
        return [self._ask(work, request, indices) for request in work.requests if (indices := _open(work, request))]

    def ticket(self, request_id: int) -> Ticket | None:
        """Whose request it is; None when it is no longer waited for."""
        return self._tickets.get(request_id)

    def settle(self, sample: Sample) -> Ticket | None:
        """Marks a sample as back; None when its request is no longer waited for (an old engine's answer)."""
        ticket = self._tickets.get(sample.request_id)
        if ticket is None:
            return None
        work = ticket.work
        work.pending.discard((ticket.request.request_index, sample.sample_index))
        self.num_samples -= 1
        if not any((ticket.request.request_index, index) in work.pending for index in ticket.seeds):
            del self._tickets[sample.request_id]
        if not work.pending:
            del self._rows[work.row.row_id]
        return ticket

    def withdraw(self, request_id: int) -> None:
        """Forgets the row of a request: nothing of it will be written by this run."""
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        work = ticket.work
        self._tickets = {number: other for number, other in self._tickets.items() if other.work is not work}
        self.num_samples -= len(work.pending)
        del self._rows[work.row.row_id]

    def take_all(self) -> list[RowWork]:
        """Empties the table, for an engine that is gone; the rows in the order of their ids."""
        rows = sorted(self._rows.values(), key=lambda work: work.row.row_id)
        self._tickets.clear()
        self._rows.clear()
        self.num_samples = 0
        return rows

    def _ask(self, work: RowWork, request: Request, indices: list[int]) -> EngineRequest:
        asked = engine_request(next(self._ids), request, self._run_seed, indices)
        self._tickets[asked.request_id] = Ticket(work, request, dict(zip(indices, asked.seeds, strict=True)))
        return asked


def engine_request(request_id: int, request: Request, run_seed: int, indices: Sequence[int]) -> EngineRequest:
    """What the engine is asked for: these samples of a request, each with the seed that it has in every run."""
    sampling, place = request.sampling, (request.row_id, request.request_index)
    seeds = tuple(seed_of(sampling.seed, run_seed, *place, index) for index in indices)
    return EngineRequest(
        request_id, request.prompt_token_ids, sampling, seeds, tuple(indices), stream=bool(sampling.stop)
    )


def _open(work: RowWork, request: Request) -> list[int]:
    return [i for i in range(request.sampling.n) if (request.request_index, i) in work.pending]
