"""How far a job is and who works on it, from what its attempts left in the folder. Reads only, at any time."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError
from runner.output.commits import Commit, Totals, newest_generations, read_commit
from runner.output.disk import Disk
from runner.output.job import JobRecord, read_job
from runner.output.layout import Layout, journal_key
from runner.output.lock import held_locks
from runner.output.ranges import bounds, num_ranges, owned


@dataclass(frozen=True)
class Attempt:
    """One process that worked or works on the folder; times are seconds since the epoch.

    ``rows`` are those that it committed or that only its journals hold; ``has_progress`` tells an attempt
    that finished anything from one that came to nothing.
    """

    number: int
    partition: str
    task: str
    host: str
    pid: int
    began: float
    last_seen: float
    rows: int
    has_progress: bool
    is_running: bool

    @property
    def rate(self) -> float:
        """Rows a second since it began."""
        return self.rows / max(self.last_seen - self.began, 1e-9) if self.rows else 0.0


@dataclass(frozen=True)
class Survey:
    """A moment of a folder. ``shares`` has (rows done, rows in all) of each fixed partition that an attempt had."""

    job: JobRecord
    rows: int
    totals: Totals
    is_done: bool
    attempts: tuple[Attempt, ...]
    shares: dict[str, tuple[int, int]]

    @property
    def num_rows(self) -> int:
        return self.job.num_rows


class Surveyor:
    """Surveys one folder again and again; records that cannot change are read once."""

    def __init__(self, path: str | Path) -> None:
        """Raises `ConfigError` when the folder holds no job (yet)."""
        self._disk, self._layout = Disk(), Layout(Path(path))
        job = read_job(self._disk, self._layout)
        if job is None:
            raise ConfigError(f"{path}: there is no job of this runner; give the folder that holds data/ and .runner/")
        self._job = job
        self._commits: dict[int, Commit] = {}
        self._journals: dict[str, tuple[int, set[int]]] = {}  # by name: size in bytes, row ids

    def look(self) -> Survey:
        """The state now. Raises `DamageError` for a commit record that is not whole."""
        self._job = read_job(self._disk, self._layout) or self._job
        self._read_commits()
        journals = self._read_journals()
        done = self._rows_by_range(journals)
        totals = Totals()
        for commit in self._live_commits():
            totals.add(commit.totals)
        attempts = tuple(self._attempts(journals))
        fixed = {attempt.partition for attempt in attempts if "/" in attempt.partition}
        return Survey(
            job=self._job,
            rows=sum(done.values()),
            totals=totals,
            is_done=self._disk.size(self._layout.success) is not None,
            attempts=attempts,
            shares={partition: self._share(partition, done) for partition in fixed},
        )

    def _live_commits(self) -> list[Commit]:
        return [commit for commit in self._commits.values() if not commit.is_tombstone]

    def _read_commits(self) -> None:
        for index, generation in newest_generations(self._disk, self._layout).items():
            known = self._commits.get(index)
            if known is None or known.generation != generation:
                self._commits[index] = read_commit(self._disk, self._layout, index, generation)

    def _read_journals(self) -> dict[int, set[int]]:
        """The rows that lack a commit, by the attempt whose journals hold them."""
        names = {name: key for name in self._disk.names(self._layout.journals) if (key := journal_key(name))}
        found: dict[int, set[int]] = defaultdict(set)
        for name, (attempt, _) in names.items():
            path = self._layout.journals / name
            size = self._disk.size(path)
            if size is None:
                continue
            if self._journals.get(name, (None,))[0] != size:
                self._journals[name] = (size, _row_ids(self._disk.read_if_there(path)))
            found[attempt] |= {row for row in self._journals[name][1] if not self._is_committed(row)}
        return found

    def _is_committed(self, row_id: int) -> bool:
        commit = self._commits.get(row_id // self._job.rows_per_shard)
        return commit is not None and not commit.is_tombstone and row_id < commit.stop

    def _rows_by_range(self, journals: dict[int, set[int]]) -> Counter[int]:
        done = Counter({commit.index: commit.stop - commit.start for commit in self._live_commits()})
        done.update(row // self._job.rows_per_shard for row in set().union(*journals.values()))
        return done

    def _share(self, partition: str, done: Counter[int]) -> tuple[int, int]:
        worker, workers = map(int, partition.split("/"))
        indices = owned(self._job, self._job.num_rows, (worker, workers))
        spans = (bounds(self._job, index, self._job.num_rows) for index in indices)
        return sum(done[index] for index in indices), sum(max(stop - start, 0) for start, stop in spans)

    def _attempts(self, journals: dict[int, set[int]]) -> Iterable[Attempt]:
        disk, layout = self._disk, self._layout
        held = set(held_locks(layout.locks))
        committed: Counter[int] = Counter()
        signs: dict[int, list[Path]] = defaultdict(list)
        for commit in self._live_commits():
            committed[commit.attempt] += commit.totals.rows
            signs[commit.attempt].append(layout.commit(commit.index, commit.generation))
        for name in disk.names(layout.journals):
            if key := journal_key(name):
                signs[key[0]].append(layout.journals / name)
        markers = {
            int(name.partition(".")[0]): disk.read_if_there(layout.attempts / name)
            for name in disk.names(layout.attempts)
        }
        partitions = {number: str(_marker(data).get("partition", "")) for number, data in markers.items()}
        newest = {partition: number for number, partition in sorted(partitions.items())}
        for number, data in sorted(markers.items()):
            marker, partition = _marker(data), partitions[number]
            times = [_time(path) for path in (layout.attempt(number), *signs[number], layout.holder(number))]
            is_fixed = "/" in partition
            lock = partition.replace("/", "-of-") if is_fixed else layout.attempt_lock(number).stem
            yield Attempt(
                number=number,
                partition=partition,
                task=str(marker.get("task", "")),
                host=str(marker.get("host", "?")),
                pid=int(marker.get("pid", 0)),
                began=times[0],
                last_seen=max(times),
                rows=committed[number] + len(journals.get(number, ())),
                has_progress=bool(signs[number]),
                is_running=lock in held and (newest[partition] == number or not is_fixed),
            )


def num_parts(job: JobRecord) -> int:
    """How many ranges the job's rows are divided into."""
    return num_ranges(job, job.num_rows)


def _marker(data: bytes | None) -> dict[str, Any]:
    try:
        marker = json.loads(data or b"{}")
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def _time(path: Path) -> float:
    """When a file last changed; 0 when there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _row_ids(data: bytes | None) -> set[int]:
    """The rows of a journal, up to the first batch that is not whole: its writer may be at it right now."""
    found: set[int] = set()
    if not data:
        return found
    try:
        for batch in pa.ipc.open_stream(pa.py_buffer(data)):
            batch.column(0).validate(full=True)
            found.update(batch.column(0).to_pylist())
    except (pa.ArrowException, OSError, ValueError, StopIteration, MemoryError, OverflowError):
        return found
    return found
