"""What a run asks of its output folder, and the job that it is given there: a new one, or the recorded one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import StorageError
from runner.output.columns import Columns
from runner.output.commits import Totals
from runner.output.disk import Disk
from runner.output.folder import Folder, guard
from runner.output.job import JobRecord, admit, job_record, read_job, rewrite_job, write_new_job
from runner.output.layout import Layout

_LOCK_SECONDS = 3.0


@dataclass(frozen=True)
class OutputSpec:
    """What a run asks of its output.

    ``fingerprint`` holds everything that decides what is written, by setting name; a difference to what the
    folder's job began with is refused unless ``accept`` names it. Those named in ``growable`` (such as
    "input.limit") may differ while ``num_rows`` differs too: the job is extended, or was already.
    ``inventory`` is kept with the job for the caller and handed back by `recorded_job`. ``partition`` is
    (w, W): this run does the ranges k with k mod W = w; None: it leases ranges, and a lease without a sign of
    life for ``lease_seconds`` is free for others. At most ``max_open_ranges`` are in work at once. ``task`` names
    the run for people.
    """

    job_name: str
    columns: Columns
    num_rows: int
    fingerprint: Mapping[str, Any]
    rows_per_shard: int = 1000
    sync_seconds: float = 10.0
    partition: tuple[int, int] | None = (0, 1)
    inventory: Mapping[str, Any] = field(default_factory=dict)
    accept: tuple[str, ...] = ()
    growable: tuple[str, ...] = ()
    overwrite: bool = False
    max_open_ranges: int = 8
    lock_seconds: float = _LOCK_SECONDS
    lease_seconds: float = 120.0
    task: str = ""


@dataclass(frozen=True)
class Summary:
    """What a run leaves: sums over the whole folder, whether the job is complete, and how to load it."""

    path: Path
    totals: Totals
    is_complete: bool
    num_parts: int

    @property
    def load_line(self) -> str:
        return f'from datasets import load_dataset; rows = load_dataset("{self.path}", split="train")'


def asked_job(spec: OutputSpec) -> JobRecord:
    """The record that a new folder would get."""
    return job_record(
        spec.job_name,
        secrets.token_hex(8),
        spec.fingerprint,
        spec.columns,
        spec.rows_per_shard,
        spec.num_rows,
        spec.inventory,
    )


def is_done(folder: Folder, spec: OutputSpec) -> bool:
    """Whether every range of the job was done before; loads the commits if so."""
    if folder.disk.size(folder.layout.success) is None:
        return False
    folder.load_commits()
    return folder.is_complete(spec.num_rows)


def settle_job(disk: Disk, layout: Layout, asked: JobRecord, spec: OutputSpec) -> JobRecord:
    """The job that this run goes on with: recorded, and durable."""
    with guard(layout):
        if write_new_job(disk, layout, asked):
            return asked
        job = read_job(disk, layout)
        if job is None:
            raise StorageError(f"output.dir: {layout.job} vanished while this run began; run again")
        settled = admit(job, asked, spec.accept, spec.growable)
        if settled != job:
            rewrite_job(disk, layout, settled)
        return settled
