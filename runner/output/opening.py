"""What a run asks of its output folder, and the job that it is given there: a new one, or the recorded one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, StorageError
from runner.output.attempts import shown, work_of
from runner.output.columns import Columns
from runner.output.commits import Totals, newest_generations
from runner.output.disk import Disk
from runner.output.folder import Folder, guard
from runner.output.job import JobRecord, admit, job_record, normal, read_job, rewrite_job, write_new_job
from runner.output.layout import Layout
from runner.output.ranges import bounds, is_covered, num_ranges, owned
from runner.output.rerun import Rerun, Selection, name_rerun

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
    the run for people. ``command`` is kept with the job as ``inventory`` is. With ``selection`` the run does lines
    of a finished job again, and nothing else. ``max_idle_attempts`` is for loops: see `runner.output.attempts`.
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
    max_idle_attempts: int | None = None
    command: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection | None = None

    def admit(self, job: JobRecord, asked: JobRecord) -> JobRecord:
        """The recorded job as it goes on under this spec; raises `ConfigError` where it may not."""
        if self.selection is None:
            return admit(job, asked, self.accept, self.growable)
        admitted = admit(job, asked, self.accept, self.growable, self.selection.is_free)
        return replace(admitted, command=job.command)  # the settings of a rerun are not the job's

    def rerun_of(self, job: JobRecord) -> Rerun | None:
        if self.selection is None:
            return None
        return name_rerun(self.selection, job, normal(self.fingerprint))


@dataclass(frozen=True)
class Summary:
    """What a run leaves: sums over the whole folder, whether the job is complete, and how to load it.

    ``is_whole`` is False too while rows are left that an earlier run asked for and this one does not.
    """

    path: Path
    totals: Totals
    is_complete: bool
    is_whole: bool
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
        spec.command,
    )


def is_done(folder: Folder, spec: OutputSpec) -> bool:
    """Whether there is nothing to do; loads the commits if so.

    A rerun that was killed takes nothing from a job that was done: only its own command goes on with it.
    """
    if folder.disk.size(folder.layout.success) is None and (folder.job.rerun is None or folder.rerun is not None):
        return False
    folder.load_commits()
    if folder.rerun is not None and any(map(folder.rerun.is_due, folder.commits.values())):
        return False
    return folder.is_complete(spec.num_rows)


def settle_job(disk: Disk, layout: Layout, asked: JobRecord, spec: OutputSpec) -> JobRecord:
    """The job that this run goes on with: recorded, and durable."""
    with guard(layout):
        if spec.selection is None and write_new_job(disk, layout, asked):
            return asked
        job = read_job(disk, layout)
        if job is None:
            raise StorageError(f"output.dir: {layout.job} vanished while this run began; run again")
        try:
            settled = spec.admit(job, asked)
        except ConfigError:
            if not is_vacant(Folder(disk, layout, job, spec.columns), spec):
                raise
            settled = asked
        rerun = spec.rerun_of(settled)
        if rerun is not None:
            settled = replace(settled, rerun=rerun.record())
        if settled != job:
            rewrite_job(disk, layout, settled)
        return settled


def is_vacant(folder: Folder, spec: OutputSpec) -> bool:
    """Whether a recorded job came to nothing, so that other settings may take its place.

    No row of it is kept, and every attempt ever made on it was one of this partition, whose lock this run holds or
    is about to take: nobody can be at work under the old settings.
    """
    disk, layout = folder.disk, folder.layout
    if spec.partition is None or spec.selection is not None:
        return False
    if newest_generations(disk, layout) or disk.names(layout.journals):
        return False
    numbers = (int(name.partition(".")[0]) for name in disk.names(layout.attempts))
    return all(work_of(folder, number)[0] == shown(spec.partition) for number in numbers)


def own_ranges(job: JobRecord, spec: OutputSpec) -> range:
    """The ranges that a run alone looks after; all of them where nobody has a fixed share."""
    if spec.partition is None:
        return range(num_ranges(job, spec.num_rows))
    return owned(job, spec.num_rows, spec.partition)


def refuse_rerun(layout: Layout, spec: OutputSpec, job: JobRecord | None, folder: Folder | None) -> None:
    """A rerun begins where all rows are done: under its settings no other row may be generated."""
    if spec.selection is None:
        return
    if folder is None or job is None:
        raise ConfigError(f"rerun: {layout.root} holds no job yet; run it without rerun first")
    if spec.num_rows != job.num_rows:
        raise ConfigError(
            f"rerun: the input has {spec.num_rows} rows and the job {job.num_rows}; give the input of the whole job, "
            "or run it without rerun first"
        )
    folder.load_commits()
    ranges = range(num_ranges(job, job.num_rows))
    left = [index for index in ranges if not is_covered(folder.commits.get(index), bounds(job, index, job.num_rows)[1])]
    if left:
        raise ConfigError(
            f"rerun: {len(left)} ranges of this job are not done yet; finish it with its own command first"
        )


def end_rerun(folder: Folder) -> None:
    """Notes that the folder's rerun has ended once no range of any partition is left to it. Call it under the guard."""
    job = read_job(folder.disk, folder.layout)
    if folder.rerun is None or job is None or any(map(folder.rerun.is_due, folder.commits.values())):
        return
    if job.rerun is not None and job.rerun["name"] == folder.rerun.name:
        folder.job = replace(job, rerun=None, reruns=[*job.reruns, job.rerun])
        rewrite_job(folder.disk, folder.layout, folder.job)
