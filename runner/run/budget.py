"""When too many rows fail, going on only wastes the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from runner.config import RunnerConfig
from runner.errors import BudgetError
from runner.output import Totals
from runner.report.plain import one_line
from runner.report.summary import top_codes
from runner.types import RowResult

_SHOWN_CHARS = 200  # of an example


class ErrorBudget:
    """The share of failed rows that a job may have, once it has ``after`` rows.

    A run is ended on the way where both the whole job and the run itself are over it: a bad stretch that a job can
    bear ends no run, and neither do the rows that failed before the cause was mended. What counts in the end is the
    whole job, however many runs it took. A job whose every row failed is over any budget but 1.
    """

    def __init__(self, max_rate: float, after: int, *, ends_runs: bool = True) -> None:
        self._max_rate = max_rate
        self._after = after
        self._ends_runs = ends_runs
        self._rows = self._failed = 0
        self._earlier_rows = self._earlier_failed = 0
        self._codes: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def begin(self, earlier: Totals) -> None:
        """Takes the sums over the rows that are done before this run."""
        self._earlier_rows, self._earlier_failed = earlier.rows, earlier.failed_rows

    def add(self, result: RowResult) -> None:
        """Counts a row of this run."""
        self._rows += 1
        self._failed += bool(result.errors)
        for error in result.errors:
            self._codes[error.code] += 1
            self._examples.setdefault(error.code, f"row {error.row_id}: {error.message}")

    def check(self) -> None:
        """Raises BudgetError when the budget is spent on the way."""
        rows, failed = self._earlier_rows + self._rows, self._earlier_failed + self._failed
        if self._ends_runs and self._is_over(self._rows, self._failed) and self._is_over(rows, failed):
            raise BudgetError(
                f"output.max_error_rate={self._max_rate:g}: {self._failed} of this run's {self._rows} rows failed "
                f"({self._what(self._codes)}); {_ADVICE}"
            )

    def allows(self, totals: Totals) -> bool:
        """Whether a job with these sums may count as done."""
        is_lost = 0 < totals.rows == totals.failed_rows and self._max_rate < 1
        return not is_lost and not self._is_over(totals.rows, totals.failed_rows)

    def check_end(self, folder: Path, totals: Totals) -> None:
        """Raises BudgetError for a job that may not count as done."""
        if not self.allows(totals):
            raise BudgetError(
                f"output.max_error_rate={self._max_rate:g}: {totals.failed_rows} of the job's {totals.rows} rows "
                f"failed ({self._what(totals.errors)}), all in {folder / 'errors'}; {_ADVICE}"
            )

    def _is_over(self, rows: int, failed: int) -> bool:
        return rows >= self._after and failed > self._max_rate * rows

    def _what(self, codes: Mapping[str, int]) -> str:
        """The most frequent codes, and what one of them said in this run."""
        known = [code for code in sorted(codes, key=lambda code: -codes[code]) if code in self._examples]
        example = f"; {one_line(self._examples[known[0]], _SHOWN_CHARS)}" if known else ""
        return f"{top_codes(codes)}{example}"


_ADVICE = (
    "mend the cause and run again (with resume.accept=[job.code] if that was in the job's code), then "
    "python -m runner.retry DIR for the rows that failed; or raise output.max_error_rate"
)


def budget_of(config: RunnerConfig) -> ErrorBudget:
    """For rows that have failed before, that they may fail again is known: no number of them ends a run."""
    output, is_retry = config.output, bool(config.rerun.error_code)
    return ErrorBudget(output.max_error_rate, output.max_error_rate_after, ends_runs=not is_retry)
