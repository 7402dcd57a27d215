"""When too many rows fail, going on only wastes the machine."""

from __future__ import annotations

from runner.config import RunnerConfig
from runner.errors import BudgetError


class ErrorBudget:
    """Counts the rows of this run; the share of failed ones is limited once there are ``after`` rows."""

    def __init__(self, max_rate: float, after: int) -> None:
        self._max_rate = max_rate
        self._after = after
        self._rows = self._failed = 0

    def add(self, failed: bool) -> None:
        self._rows += 1
        self._failed += failed

    def check_end(self) -> None:
        """Raises BudgetError when not one row of a run that was too short to judge by its rate succeeded."""
        if self._rows and self._failed == self._rows:
            raise BudgetError(
                f"all {self._rows} rows of this run failed; see errors/ for the codes and messages, mend the cause, "
                "and start over with output.overwrite=true"
            )

    def check(self) -> None:
        """Raises BudgetError when the budget is spent."""
        if self._rows < self._after or self._failed <= self._max_rate * self._rows:
            return
        raise BudgetError(
            f"output.max_error_rate={self._max_rate:g}: {self._failed} of this run's {self._rows} rows failed; "
            "see errors/ for the codes, mend the input or raise the limit, and run again to continue"
        )


class NoBudget(ErrorBudget):
    """For rows that have failed before: that they may fail again is known."""

    def __init__(self) -> None:
        super().__init__(max_rate=1.0, after=0)

    def check_end(self) -> None:
        """Not one may succeed."""

    def check(self) -> None:
        """All may fail."""


def budget_of(config: RunnerConfig) -> ErrorBudget:
    if config.rerun.error_code:
        return NoBudget()
    return ErrorBudget(config.output.max_error_rate, config.output.max_error_rate_after)
