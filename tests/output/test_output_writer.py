"""The thread between the caller and the disk: what it promises about time and about waiting."""

from __future__ import annotations

import threading
from pathlib import Path

from tiny_job import result_of, tiny_spec

from runner.output import Output
from runner.output.disk import Disk
from runner.output.journal import read_journal
from runner.output.ledger import journal_schema


class SyncWatch(Disk):
    """Says when a journal was synced, and holds syncs back while it is told to."""

    def __init__(self) -> None:
        self.synced = threading.Event()
        self.may_sync = threading.Event()
        self.may_sync.set()

    def sync(self, fd: int, path: Path) -> None:
        self.may_sync.wait()
        super().sync(fd, path)
        if path.suffix == ".arrows":
            self.synced.set()


def test_finished_rows_are_durable_without_a_flush(tmp_path):
    disk = SyncWatch()
    with Output.open(tmp_path / "out", tiny_spec(sync_seconds=0.05), disk) as output:
        output.take_range()
        output.write(result_of(0))
        assert disk.synced.wait(30)
        (journal,) = (tmp_path / "out/.runner/journals").iterdir()
        batches = list(read_journal(Disk(), journal, journal_schema(output._folder)))
        assert [batch.column(0).to_pylist() for batch in batches] == [[0]]


def test_the_caller_never_waits_for_a_sync(tmp_path):
    disk = SyncWatch()
    with Output.open(tmp_path / "out", tiny_spec(sync_seconds=0.01), disk) as output:
        item = output.take_range()
        output.write(result_of(item.start))
        assert disk.synced.wait(30)
        disk.may_sync.clear()  # the disk hangs in its next sync
        for row in range(item.start + 1, item.stop):
            output.write(result_of(row))
        disk.may_sync.set()
        output.flush()
        assert output.totals.rows == item.stop


def test_totals_count_what_is_journalled_also_after_a_restart(tmp_path):
    with Output.open(tmp_path / "out", tiny_spec()) as output:
        output.take_range()
        for row in range(5):
            output.write(result_of(row))
        output.flush()
        before = output.totals
    assert before.rows == 5 and before.errors == {"template": 1, "no_title": 1}
    with Output.open(tmp_path / "out", tiny_spec()) as output:
        assert output.totals == before
        assert output.take_range().done == frozenset(range(5))


def test_journals_are_dropped_once_their_rows_are_committed(tmp_path, monkeypatch):
    from runner.output import ledger

    monkeypatch.setattr(ledger, "_SEGMENT_BYTES", 1)
    journals = tmp_path / "out/.runner/journals"
    with Output.open(tmp_path / "out", tiny_spec()) as output:
        items = [output.take_range() for _ in range(2)]
        output.write(result_of(items[0].start))
        for row in range(items[1].start, items[1].stop):
            output.write(result_of(row))
            output.flush()
        # The first holds a row of the open range, the last is the one that is being written.
        assert len(list(journals.iterdir())) == 2
    with Output.open(tmp_path / "out", tiny_spec()) as output:
        assert output.take_range().done == frozenset({items[0].start})
