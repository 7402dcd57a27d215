"""A run's right to an output folder: taken and judged before anything that is there changes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from runner.errors import ConfigError
from runner.output.attempts import new_attempt
from runner.output.disk import Disk
from runner.output.folder import Folder, clear_folder, make_folder, refuse_busy, refuse_foreign
from runner.output.job import JobRecord, read_job, refuse_unknown
from runner.output.layout import Layout
from runner.output.lock import FolderLock
from runner.output.opening import OutputSpec, asked_job, is_done, is_vacant, own_ranges, refuse_rerun, settle_job
from runner.output.recovery import open_ranges
from runner.output.share import refuse_overlap


class Reservation:
    """Holds the folder for one run, from its lock on, and a number for its attempt.

    A folder that is new or to be overwritten stays as it was until `settle`. Left with a `ConfigError` before that,
    as a context manager or by `close`, it is as if the command had never been given.
    """

    def __init__(self, path: str | Path, spec: OutputSpec, disk: Disk | None = None) -> None:
        """Raises `ConfigError` (changed settings, or a folder that is not ours), `LockedError` (another runner
        works on this partition), `DamageError` (see `runner.repair`), `StalledError` and `StorageError`."""
        self.spec = spec
        self.is_done = False
        """The whole job was done before this run: nothing is held, and nothing will change."""
        self.has_work = False
        """Whether ranges of this run's own lack a commit, so that an engine is needed."""
        self.attempt = 0
        self._disk, self._layout = disk or Disk(), Layout(Path(path))
        self._asked = asked_job(spec)
        self._lock: FolderLock | None = None
        self._made: list[Path] = []  # deepest first
        self._is_settled = False
        self.folder = self._look()
        if not self.is_done:
            try:
                self._take()
            except BaseException as error:
                self.close(error)
                raise

    def _look(self) -> Folder:
        """Judges what is there; changes nothing but a card that a stale writer put back."""
        spec, disk, layout, asked = self.spec, self._disk, self._layout, self._asked
        job = None if spec.overwrite else self._find_job()
        refuse_unknown(spec.accept, asked, job)
        if spec.overwrite:
            refuse_busy(disk, layout)
        new = Folder(disk, layout, asked, spec.columns)
        admitted = None
        if job is not None:
            try:
                admitted = spec.admit(job, asked)
            except ConfigError:
                if not is_vacant(new, spec):
                    raise
        if admitted is None:
            refuse_rerun(layout, spec, None, None)
            self.has_work = spec.num_rows > 0
            return new
        folder = Folder(disk, layout, admitted, spec.columns, rerun=spec.rerun_of(admitted))
        self.is_done = admitted == job and is_done(folder, spec)
        if self.is_done:
            folder.mend_card()
            return folder
        refuse_rerun(layout, spec, job, folder)
        folder.load_commits()
        self.has_work = bool(open_ranges(folder, own_ranges(admitted, spec), spec.num_rows))
        return folder

    def _find_job(self) -> JobRecord | None:
        """The folder's job; None where there is none, and nothing that would be in the way of one."""
        job = read_job(self._disk, self._layout)
        if job is None:
            try:
                refuse_foreign(self._disk, self._layout)
            except ConfigError:
                # Another partition may have begun between the two looks: the job is recorded before data/ is made.
                job = read_job(self._disk, self._layout)
                if job is None:
                    raise
        return job

    def _take(self) -> None:
        disk, layout, spec = self._disk, self._layout, self.spec
        self._made = [path for path in (layout.hidden, layout.root, *layout.root.parents) if not disk.is_dir(path)]
        make_folder(disk, layout)
        if spec.partition is not None:
            self._lock = FolderLock(layout.lock(spec.partition), wait_seconds=spec.lock_seconds)
        refuse_overlap(layout, spec.partition)
        limit = None if spec.overwrite else spec.max_idle_attempts  # what is overwritten begins to count anew
        self.attempt = new_attempt(self.folder, spec.partition, spec.task, limit)

    def settle(self) -> Folder:
        """Starts the folder over where that was asked, and records the job. From here on the settings hold."""
        disk, layout, spec = self._disk, self._layout, self.spec
        if spec.overwrite:
            clear_folder(disk, layout, layout.attempt(self.attempt), self._lock.path if self._lock else None)
            make_folder(disk, layout)
        job = settle_job(disk, layout, self._asked, spec)
        self.folder = Folder(disk, layout, job, spec.columns, rerun=spec.rerun_of(job))
        self._is_settled = True
        return self.folder

    def close(self, error: BaseException | None = None) -> None:
        """Lets the folder go; of a refused command nothing stays. Safe to call again."""
        try:
            if isinstance(error, ConfigError) and not self._is_settled:
                self._withdraw()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    def _withdraw(self) -> None:
        """Removes this run's marker, and the folders that it made as far as nobody else has come into them."""
        disk, layout = self._disk, self._layout
        if self.attempt:
            disk.unlink(layout.attempt(self.attempt))
            self.attempt = 0
        if layout.hidden not in self._made:
            return
        if self._lock is not None:
            disk.unlink(self._lock.path)
        hidden = sorted(layout.hidden_dirs(), key=lambda path: path != layout.locks)  # others hold theirs: stop there
        for path in (*hidden, *self._made):
            try:
                path.rmdir()
            except OSError:
                return
        self._made = []

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(error)
