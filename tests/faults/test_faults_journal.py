"""Journals with torn, zero-filled and flipped ends: what was whole comes back, nothing else does."""

from __future__ import annotations

import logging
import random
import shutil

import pytest
from fault_checker import check_whole
from fault_driver import _CONTEXT
from faulty_disk import Dead, DyingDisk
from tiny_job import result_of, run_job, tiny_spec

from runner.output import Output
from runner.output.disk import Disk
from runner.output.folder import Folder
from runner.output.job import read_job
from runner.output.journal import read_journal
from runner.output.layout import Layout
from runner.output.ledger import journal_schema

ROWS = 30


@pytest.fixture
def killed(tmp_path):
    """A folder whose run died with four batches in its journal and no range complete."""
    path = tmp_path / "killed"
    disk = DyingDisk()
    output = Output.open(path, tiny_spec(), disk)
    rows = [row for _ in range(4) for row in rows_of(output.take_range())]
    for number, row in enumerate(row for row in rows if row % 8 != 7):
        output.write(result_of(row))
        if number % 7 == 6:
            output.flush()
    disk.die_at = 0
    with pytest.raises(Dead):
        output.finish()
    output.close()
    return path


def rows_of(item):
    return range(item.start, item.stop)


def journal_of(path):
    (journal,) = (path / ".runner/journals").iterdir()
    return journal


def schema_of(path):
    layout = Layout(path)
    return journal_schema(Folder(Disk(), layout, read_job(Disk(), layout), tiny_spec().columns))


def row_lists(path, schema):
    return [batch.column(0).to_pylist() for batch in read_journal(Disk(), path, schema)]


def test_every_torn_tail_gives_the_batches_before_it(killed):
    journal, schema = journal_of(killed), schema_of(killed)
    data, whole = journal.read_bytes(), row_lists(journal_of(killed), schema_of(killed))
    assert len(whole) == 4
    lengths = set()
    for size in range(0, len(data), 61):
        for tail in (b"", bytes(len(data) - size)):
            journal.write_bytes(data[:size] + tail)
            found = row_lists(journal, schema)
            assert found == whole[: len(found)]
            lengths.add(len(found))
    assert lengths == {0, 1, 2, 3} or lengths == {0, 1, 2, 3, 4}


def flip_and_read(path, schema, seed, count):
    """In a process of its own: a flip that makes Arrow abort must show as an exit code."""
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    data, whole = path.read_bytes(), row_lists(path, schema)
    batches = [batch.to_pylist() for batch in read_journal(Disk(), path, schema)]
    for _ in range(count):
        torn = bytearray(data)
        torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
        path.write_bytes(torn)
        found = list(read_journal(Disk(), path, schema))
        assert [batch.to_pylist() for batch in found] == batches[: len(found)]
    path.write_bytes(data)
    assert row_lists(path, schema) == whole


def flips(killed, seed, count):
    process = _CONTEXT.Process(target=flip_and_read, args=(journal_of(killed), schema_of(killed), seed, count))
    process.start()
    process.join()
    assert process.exitcode == 0


def break_offsets(path, schema):
    """Makes each word of a batch negative or huge: a reader that trusted its offsets would leave its buffers."""
    logging.disable(logging.CRITICAL)
    data, whole = path.read_bytes(), row_lists(path, schema)
    quarter = len(data) // 4
    for at in range(quarter, 2 * quarter, 4):
        for byte in (2, 3):
            torn = bytearray(data)
            torn[at + byte] ^= 0x80
            path.write_bytes(torn)
            found = row_lists(path, schema)
            assert found == whole[: len(found)]


def test_a_broken_offset_is_never_followed(killed):
    process = _CONTEXT.Process(target=break_offsets, args=(journal_of(killed), schema_of(killed)))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_some_flipped_bits(killed):
    flips(killed, seed=1, count=300)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_six_thousand_flipped_bits(killed):
    flips(killed, seed=2, count=6000)


@pytest.mark.parametrize("damage", ["torn", "zeros", "flip", "empty", "gone", "noise"])
def test_a_damaged_journal_costs_work_and_no_row(killed, damage, reference):
    journal = journal_of(killed)
    data = bytearray(journal.read_bytes())
    if damage == "torn":
        journal.write_bytes(data[:-37])
    elif damage == "zeros":
        journal.write_bytes(bytes(data[:-900]) + bytes(900))
    elif damage == "flip":
        data[len(data) // 2] ^= 4
        journal.write_bytes(data)
    elif damage == "empty":
        journal.write_bytes(b"")
    elif damage == "gone":
        journal.unlink()
    else:
        journal.write_bytes(random.Random(1).randbytes(5000))
    run_job(killed, tiny_spec())
    check_whole(killed, reference)


def test_what_was_journalled_is_not_done_again(killed, reference):
    done = {row for rows in row_lists(journal_of(killed), schema_of(killed)) for row in rows}
    generated = set()
    with Output.open(killed, tiny_spec()) as output:
        while (item := output.take_range()) is not None:
            for row in set(rows_of(item)) - item.done:
                generated.add(row)
                output.write(result_of(row))
        output.finish()
    assert len(done) == 28 and generated == set(range(50)) - done
    check_whole(killed, reference)


def test_a_journal_of_another_job_is_not_replayed(killed, tmp_path, reference):
    shutil.copytree(killed, tmp_path / "other")
    run_job(tmp_path / "out", tiny_spec(overwrite=True), num_rows=50)
    with Output.open(tmp_path / "other", tiny_spec(overwrite=True)) as output:
        shutil.copy(journal_of(killed), tmp_path / "other/.runner/journals/000009-0001.arrows")
        assert output.totals.rows == 0
    with Output.open(tmp_path / "other", tiny_spec()) as output:
        assert output.totals.rows == 0


def test_a_row_that_is_in_two_journals_counts_once(killed, reference):
    shutil.copy(journal_of(killed), killed / ".runner/journals/000002-0001.arrows")
    with Output.open(killed, tiny_spec()) as output:
        assert output.totals.rows == 28
    run_job(killed, tiny_spec())
    check_whole(killed, reference)
