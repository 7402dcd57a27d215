"""The first requests of a job, as the engine gets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from runner.errors import ConfigError
from runner.run.plan import Plan
from runner.seeds import seed_of
from runner.types import EngineRequest, Request, RowError

_READ_AHEAD = 4  # rows read for each request wanted: some are bad, some are dropped by the job


def first_requests(plan: Plan, count: int) -> list[EngineRequest]:
    """At most ``count``, in the order of the input. Raises ConfigError when no row gives one."""
    requests = list(islice(_good(plan, count * _READ_AHEAD), count))
    if not requests:
        raise ConfigError(f"profile.rows={count}: no row of the input's beginning gives a prompt to run")
    return [_ask(i, request, plan.config.seed) for i, request in enumerate(requests)]


def _good(plan: Plan, num_rows: int) -> Iterator[Request]:
    renderer = plan.renderer(plan.backend.open_tokenizer())
    rows = [item for item in plan.reader().read(0, num_rows) if not isinstance(item, RowError)]
    for results in renderer.render(rows):
        yield from (result for result in results if not isinstance(result, RowError))


def _ask(number: int, request: Request, run_seed: int) -> EngineRequest:
    sampling, place = request.sampling, (request.row_id, request.request_index)
    seeds = tuple(seed_of(sampling.seed, run_seed, *place, index) for index in range(sampling.n))
    return EngineRequest(number, request.prompt_token_ids, sampling, seeds, tuple(range(sampling.n)))
