"""The first requests of a job, as the engine gets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from runner.errors import ConfigError
from runner.run.inflight import engine_request
from runner.run.plan import Plan
from runner.types import EngineRequest, Request, RowError

_READ_AHEAD = 4  # rows read for each request wanted: some are bad, some are dropped by the job


def first_requests(plan: Plan, count: int) -> list[EngineRequest]:
    """At most ``count``, in the order of the input. Raises ConfigError when no row gives one."""
    requests = list(islice(_good(plan, count * _READ_AHEAD), count))
    if not requests:
        raise ConfigError(f"profile.rows={count}: no row of the input's beginning gives a prompt to run")
    seed = plan.config.seed
    return [engine_request(i, request, seed, range(request.sampling.n)) for i, request in enumerate(requests)]


def _good(plan: Plan, num_rows: int) -> Iterator[Request]:
    renderer = plan.renderer(plan.backend.open_tokenizer())
    rows = [item for item in plan.reader().read(0, num_rows) if not isinstance(item, RowError)]
    for results in renderer.render(rows):
        yield from (result for result in results if not isinstance(result, RowError))
