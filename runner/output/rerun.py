"""Lines of committed parts that are to be done again, while the rest of their parts stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.output.columns import Columns
from runner.output.commits import Commit, Totals
from runner.output.job import JobRecord
from runner.output.sealed import digest

SampleKeys = frozenset[tuple[int | None, int | None]]
"""(request_index, sample_index); None stands for all."""

ANY = "any"


@dataclass(frozen=True)
class Selection:
    """Lines of data/ by their finish reason, and of errors/ by their code ("any" takes all).

    ``is_free`` says of which settings this run may have other values than the job: they hold for the lines done
    again and are no part of the job.
    """

    finish_reasons: tuple[str, ...] = ()
    error_codes: tuple[str, ...] = ()
    is_free: Callable[[str], bool] = lambda _: False

    def num_lines(self, totals: Totals) -> int:
        """How many lines are selected, from the sums of a commit."""
        failed = sum(n for code, n in totals.errors.items() if ANY in self.error_codes or code in self.error_codes)
        return failed + sum(totals.finish_reasons.get(reason, 0) for reason in self.finish_reasons)

    def split(self, data: pa.Table, errors: pa.Table | None, columns: Columns) -> Split:
        """Parts the lines of a range."""
        wanted = _among(data[columns.names["finish_reason"]], self.finish_reasons)
        samples = _keys(data.filter(wanted), columns.key)
        kept_errors = None
        if errors is not None:
            codes = errors[columns.error_names["code"]]
            failed = _true(codes) if ANY in self.error_codes else _among(codes, self.error_codes)
            samples += _keys(errors.filter(failed), columns.error_key)
            kept_errors = errors.filter(pc.invert(failed))
        chosen: dict[int, set[tuple[int | None, int | None]]] = {}
        for row_id, request_index, sample_index in samples:
            chosen.setdefault(row_id, set()).add((request_index, sample_index))
        return Split(
            {row: frozenset(keys) for row, keys in chosen.items()}, data.filter(pc.invert(wanted)), kept_errors
        )


@dataclass(frozen=True)
class Split:
    """``chosen`` names the samples to do again, by row; ``data`` and ``errors`` hold the lines that stay."""

    chosen: Mapping[int, SampleKeys]
    data: pa.Table
    errors: pa.Table | None


@dataclass(frozen=True)
class Rerun:
    """A selection under a name that stays the same when its command is given again."""

    selection: Selection
    name: str
    settings: Mapping[str, Any]

    def is_due(self, commit: Commit) -> bool:
        """Whether parts hold selected lines that this rerun has not done."""
        return self.name not in commit.reruns and self.selection.num_lines(commit.totals) > 0

    def record(self) -> dict[str, Any]:
        selection = self.selection
        return {
            "name": self.name,
            "finish_reason": list(selection.finish_reasons),
            "error_code": list(selection.error_codes),
            "settings": dict(self.settings),
        }


def name_rerun(selection: Selection, job: JobRecord, fingerprint: Mapping[str, Any]) -> Rerun:
    """The rerun of a job under these settings. Of failed lines there may be many, one after the other."""
    settings = {
        key: fingerprint.get(key)
        for key in sorted(fingerprint)
        if selection.is_free(key) and fingerprint.get(key) != job.fingerprint.get(key)
    }
    asked = digest([sorted(selection.finish_reasons), sorted(selection.error_codes), settings])[:16]
    number = sum(done["name"].startswith(asked) for done in job.reruns) if selection.error_codes else 0
    return Rerun(selection, f"{asked}.{number}", settings)


def _among(column: pa.ChunkedArray, values: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(values, pa.string()))


def _true(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.or_(pc.is_valid(column), pc.is_null(column))


def _keys(lines: pa.Table, key: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(lines[name].to_pylist() for name in key), strict=True))
