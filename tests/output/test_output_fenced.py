"""An attempt that slept while another did its work leaves nothing behind, and what is still needed stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tiny_job import result_of, tiny_spec

from runner.errors import StorageError
from runner.output import Output
from runner.output.disk import Disk
from runner.output.verification import verify


def begin(path, spec, num_ranges=1, disk=None):
    """An output that took its first ranges. A process never locks itself out, so that others may open it too."""
    output = Output.open(path, spec, disk)
    for _ in range(num_ranges):
        output.take_range()
    return output


def write(output, rows):
    for row_id in rows:
        output.write(result_of(row_id))
    output.flush()


def names(path, folder):
    return [item.name for item in (path / ".runner" / folder).iterdir()]


@pytest.mark.parametrize("rows", [range(3), range(8)], ids=["on the way", "at its commit"])
def test_a_late_attempt_leaves_nothing_in_a_job_that_is_done(tmp_path, spec, generate, rows):
    path = tmp_path / "out"
    stale = begin(path, spec)
    generate(path, spec)
    write(stale, rows)
    assert names(path, "journals") == ["000001-0001.arrows"]
    stale.close()
    assert names(path, "journals") == names(path, "stage") == []
    report = verify(path)
    assert report.damages == report.notes == []


def test_a_late_attempt_gives_way_also_when_its_stage_is_gone(tmp_path, spec, generate, caplog):
    stale = begin(tmp_path / "out", spec, 2)
    write(stale, range(8))
    generate(tmp_path / "out", spec)
    write(stale, range(8, 16))
    assert "rows 8 to 15: another process took them over" in caplog.text
    assert stale.finish().is_complete
    stale.close()
    report = verify(tmp_path / "out")
    assert report.damages == report.notes == []


def test_a_journal_stays_while_it_holds_rows_that_nobody_committed(tmp_path, spec):
    path = tmp_path / "out"
    stale = begin(path, spec, 2)
    with begin(path, spec) as other:
        write(other, range(8))
    write(stale, [0, 1, 8, 9])
    stale.close()
    with Output.open(path, spec) as output:
        item = output.take_range()
        assert (item.index, item.done) == (1, {8, 9})


class UnsafeCommit(Disk):
    """The first sync of the commit records' folder fails; a later one says nothing of what that lost."""

    has_failed = False

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        if call == "sync_dir" and path.name == "commits" and not self.has_failed:
            self.has_failed = True
            raise OSError(errno.EIO, "Input/output error")


def test_a_journal_outlives_a_commit_of_its_own_that_may_not_be_durable(tmp_path):
    path = tmp_path / "out"
    output = begin(path, tiny_spec(), disk=UnsafeCommit())
    with pytest.raises(StorageError):
        write(output, range(8))
    output.close()
    assert "part-00000.g1.json" in names(path, "commits")
    assert names(path, "journals") == ["000001-0001.arrows"]


def test_a_journal_outlives_the_commit_of_another_that_may_not_be_durable(tmp_path):
    path = tmp_path / "out"
    stale = begin(path, tiny_spec(), disk=UnsafeCommit())
    with begin(path, tiny_spec()) as other:
        write(other, range(8))
    with pytest.raises(StorageError, match="Input/output error"):
        write(stale, range(8))


class SlowRemoval(Disk):
    """Whatever folder it is about to remove, another process removes first."""

    def before(self, call: str, path: Path, other: Path | None = None) -> None:
        if call == "remove_dir":
            path.rmdir()


def test_the_end_of_a_job_and_of_a_late_attempt_may_meet(tmp_path, spec, generate):
    with begin(tmp_path / "out", spec, disk=SlowRemoval()) as output:
        write(output, range(8))
        generate(tmp_path / "out", spec, partition=(1, 2))
    assert names(tmp_path / "out", "stage") == []
