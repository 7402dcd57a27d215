"""What the writer thread keeps: results go into the journal and their range, full ranges become parts.

Everything here runs on one thread; `runner.output.writer` is the only caller while a job runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from runner.errors import StorageError
from runner.output.commits import Commit, newest_generations, read_commit, write_commit
from runner.output.entries import decode, encode, entry_schema
from runner.output.folder import Folder
from runner.output.journal import JournalWriter
from runner.output.layout import DATA, ERRORS
from runner.output.ranges import OpenRange, totals_of
from runner.output.shards import build, write_part
from runner.types import RowResult

_log = logging.getLogger(__name__)
_SEGMENT_BYTES = 16 << 20


class Ledger:
    """The open ranges of one attempt, its journals, and the journals that earlier attempts left."""

    def __init__(
        self, folder: Folder, attempt: int, open_ranges: dict[int, OpenRange], journals: dict[Path, set[int]]
    ) -> None:
        self.totals = folder.totals()
        for item in open_ranges.values():
            if not item.is_rerun:
                self.totals.add(item.totals)
        self._folder = folder
        self._attempt = attempt
        self._open = open_ranges
        self._old_journals = journals
        self._journal: JournalWriter | None = None
        self._full_journals: list[JournalWriter] = []
        self._segment = 0
        self._staged = False
        self._schema = journal_schema(folder)
        self._drop_covered()

    @property
    def unsynced(self) -> int:
        """Bytes that a power cut would take."""
        return self._journal.unsynced if self._journal else 0

    def absorb(self, results: Sequence[RowResult]) -> None:
        """Journals finished rows and commits the ranges that they complete."""
        size = self._folder.job.rows_per_shard
        batch = encode(results, self._folder.columns, lambda row_id: self._open[row_id // size].generation)
        entries = decode(batch, self._folder.columns, size)
        journal = self._open_journal()
        journal.ranges.update(entries)
        journal.append(batch)
        for index, part in entries.items():
            new = self._open[index].add(part, self._folder.columns)
            if not self._open[index].is_rerun:  # its rows are counted already
                self.totals.add(new)
        self.commit_complete(entries)

    def adopt(self, item: OpenRange) -> None:
        """Takes up a range that was leased after the start, with what journals held of it."""
        self._open[item.index] = item
        if not item.is_rerun:
            self.totals.add(item.totals)
        self.commit_complete([item.index])

    def commit_complete(self, indices: Iterable[int]) -> None:
        """Commits and publishes those of these open ranges that have all their rows."""
        for index in list(indices):
            if self._open[index].is_complete:
                self._commit(self._open[index])
                del self._open[index]
                self._cover(index)

    def sync(self) -> None:
        """What was absorbed survives a power cut from here on."""
        if self._journal:
            self._journal.sync()

    def close(self) -> None:
        """Releases the files, and removes those of this attempt that nobody will read again; syncs none of them."""
        self._retire_journal()
        self._drop_fenced()
        for journal in self._full_journals:
            journal.close()
        disk, stage = self._folder.disk, self._folder.layout.stage_of(self._attempt)
        if self._staged and not disk.names(stage):
            disk.remove_empty_dir(stage)

    def _open_journal(self) -> JournalWriter:
        if self._journal and self._journal.size >= _SEGMENT_BYTES:
            self._journal.sync()
            self._retire_journal()
            self._drop_covered()
        if self._journal is None:
            self._segment += 1
            path = self._folder.layout.journal(self._attempt, self._segment)
            self._journal = JournalWriter(self._folder.disk, path, self._schema)
        return self._journal

    def _retire_journal(self) -> None:
        if self._journal:
            self._full_journals.append(self._journal)
            self._journal = None

    def _cover(self, index: int) -> None:
        """The range is committed: no journal needs to hold its rows any longer."""
        for ranges in (*self._old_journals.values(), *(journal.ranges for journal in self._full_journals)):
            ranges.discard(index)
        if self._journal:
            self._journal.ranges.discard(index)
        self._drop_covered()

    def _drop_fenced(self) -> None:
        """Drops this attempt's journals of ranges that other attempts have committed.

        It slept while they did that; a job that is done is not swept again.
        """
        folder, own = self._folder, set().union(*(journal.ranges for journal in self._full_journals))
        newest = newest_generations(folder.disk, folder.layout) if own else {}
        fenced = {index for index in own if self._is_fenced(index, newest.get(index, 0))}
        if fenced:
            folder.disk.sync_dir(folder.layout.commits)  # the records' writers may not have come to that yet
        for journal in self._full_journals:
            journal.ranges -= fenced
        self._drop_covered()

    def _is_fenced(self, index: int, newest: int) -> bool:
        """Whether another attempt has committed an open range. A commit of ours that was refused may not be durable."""
        folder = self._folder
        if newest < self._open[index].generation:
            return False
        return read_commit(folder.disk, folder.layout, index, newest).attempt != self._attempt

    def _drop_covered(self) -> None:
        """Drops the journals whose every row is committed, but for the one being written."""
        disk = self._folder.disk
        for path in [path for path, ranges in self._old_journals.items() if not ranges]:
            disk.unlink(path)
            del self._old_journals[path]
        for journal in [journal for journal in self._full_journals if not journal.ranges]:
            journal.close()
            disk.unlink(journal.path)
            self._full_journals.remove(journal)

    def _commit(self, item: OpenRange) -> None:
        folder = self._folder
        try:
            commit = self._stage(item)
            has_won = write_commit(folder.disk, folder.layout, commit)
        except StorageError as error:
            if not self._is_swept(item, error):
                raise
            has_won = False
        if has_won:
            folder.publish(commit)
            folder.sync_parts()
            folder.add_commit(commit)
            folder.refresh_card()
        else:
            self._yield_to_winner(item)
        self._recount(item)

    def _is_swept(self, item: OpenRange, error: StorageError) -> bool:
        """Whether a file is missing because others did the range, ended the job and swept the folder meanwhile."""
        newest = newest_generations(self._folder.disk, self._folder.layout)
        return isinstance(error.__cause__, FileNotFoundError) and self._is_fenced(item.index, newest.get(item.index, 0))

    def _recount(self, item: OpenRange) -> None:
        """Counts a range by its commit, in the place of what it was counted by before."""
        if item.base is not None:
            self.totals.remove(item.base.totals)
        if not item.is_rerun:
            self.totals.remove(item.totals)
        self.totals.add(self._folder.commits[item.index].totals)

    def _stage(self, item: OpenRange) -> Commit:
        """Writes the range's parts where no reader looks. Durable on return."""
        folder, columns = self._folder, self._folder.columns
        layout, disk = folder.layout, folder.disk
        data, errors = self._tables(item)
        totals = totals_of(item.stop - item.start, _dropped(item), data, errors, columns)
        paths = self._staged_paths(item.index, item.generation)
        if not self._staged:
            disk.make_dir(layout.stage_of(self._attempt))
            disk.sync_dir(layout.stage)
            self._staged = True
        try:
            data_part = write_part(disk, paths[DATA], data)
            # No file is ever removed from errors/, which a stale writer could do late: it is replaced by an empty one.
            has_errors = errors.num_rows > 0 or (item.base is not None and item.base.errors is not None)
            error_part = write_part(disk, paths[ERRORS], errors) if has_errors else None
        except StorageError:
            self._unstage(paths.values())
            raise
        disk.sync_dir(layout.stage_of(self._attempt))
        return Commit(
            index=item.index,
            generation=item.generation,
            start=item.start,
            stop=item.stop,
            attempt=self._attempt,
            fingerprint=folder.job.fingerprint_digest(),
            data=data_part,
            errors=error_part,
            totals=totals,
            reruns=[*item.base.reruns, folder.rerun.name] if item.base and folder.rerun else [],
        )

    def _tables(self, item: OpenRange) -> tuple[pa.Table, pa.Table]:
        """All lines of a range, new ones and those that it takes over, in their order."""
        columns = self._folder.columns
        data, errors = list(item.data), list(item.errors)
        if item.base is not None:
            kept = item.kept()
            data += kept.data.to_batches()
            errors += kept.errors.to_batches() if kept.errors is not None else []
        return build(data, columns.data, columns.key), build(errors, columns.errors, columns.error_key)

    def _staged_paths(self, index: int, generation: int) -> dict[str, Path]:
        layout = self._folder.layout
        return {kind: layout.staged(self._attempt, kind, index, generation) for kind in (DATA, ERRORS)}

    def _unstage(self, paths: Iterable[Path]) -> None:
        """Gives the space of a half-written part back; the first error is the one to report."""
        for path in paths:
            with suppress(StorageError):
                self._folder.disk.unlink(path)

    def _yield_to_winner(self, item: OpenRange) -> None:
        """Another attempt committed this range first: its parts count, ours go."""
        folder = self._folder
        self._unstage(self._staged_paths(item.index, item.generation).values())
        generation = newest_generations(folder.disk, folder.layout)[item.index]
        folder.disk.sync_dir(folder.layout.commits)  # the record's writer may not have come to that yet
        folder.add_commit(read_commit(folder.disk, folder.layout, item.index, generation))
        _log.warning(
            "rows %d to %d: another process took them over, as this one gave no sign of life; its answers stay",
            item.start,
            item.stop - 1,
        )


def journal_schema(folder: Folder) -> pa.Schema:
    """Ties a journal to its job and its rerun: one of a job that was overwritten must never be replayed."""
    rerun = folder.rerun.name if folder.rerun else ""
    return entry_schema(folder.columns).with_metadata({"job": folder.job.job_id, "rerun": rerun})


def _dropped(item: OpenRange) -> int:
    return item.totals.dropped + (item.base.totals.dropped if item.base else 0)
