"""Power cuts: every state that the recorded calls allow must lead to the uninterrupted run's output."""

from __future__ import annotations

import shutil
from contextlib import suppress

import pytest
from fault_checker import check_readable, check_whole
from faulty_disk import Dead
from recording_disk import RecordingDisk, crash_states, without
from tiny_job import result_of, tiny_spec

from runner.errors import RunnerError
from runner.output import Output

ROWS_PER_FLUSH = 5
JOURNAL_SYNC = ("sync", "/out/.runner/journals/N-N.arrows")


def work(path, disk):
    """Runs the job, marking in the recording what each flush promised; returns the rows it generated."""
    generated = []
    with Output.open(path, tiny_spec(max_open_ranges=2, sync_seconds=1000.0), disk) as output:
        unmarked = []
        while (item := output.take_range()) is not None:
            unmarked += item.done
            for row in range(item.start, item.stop):
                if row not in item.done:
                    output.write(result_of(row))
                    generated.append(row)
                    unmarked.append(row)
                if len(unmarked) >= ROWS_PER_FLUSH and disk is not None:
                    output.flush()
                    disk.mark(unmarked)
                    unmarked.clear()
        output.finish()
    return generated


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The recording of an uninterrupted run."""
    base = tmp_path_factory.mktemp("straight")
    disk = RecordingDisk(base)
    work(base / "out", disk)
    return disk.events


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, straight):
    """The recording of a run that was killed between a journal's write and its sync, and of its resume."""
    base = tmp_path_factory.mktemp("resumed")
    syncs = [number for number, event in enumerate(straight) if event.kind == JOURNAL_SYNC]
    disk = RecordingDisk(base, die_at=syncs[4])
    with suppress(Dead):
        work(base / "out", disk)
    disk.die_at = None
    work(base / "out", disk)
    return disk.events


def survives(state, durable_rows, base, reference):
    """Raises unless the folder in this state is readable, loses no durable row and can be finished."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    state.lay_out(base)
    if (base / "out").exists():
        check_readable(base / "out", reference)
    generated = work(base / "out", None)
    assert not durable_rows.intersection(generated), "a durable row is lost"
    check_whole(base / "out", reference)


def check_all(events, prefixes, base, reference):
    """Checks every state after each of these prefixes; equal states once."""
    seen = set()
    for length in prefixes:
        before = events[:length]
        durable = {int(row) for event in before if event.call == "mark" for row in event.path.split()}
        for state in crash_states(before):
            key = (frozenset(state.folders), frozenset(state.files.items()), frozenset(durable))
            if key not in seen:
                seen.add(key)
                try:
                    survives(state, durable, base, reference)
                except (AssertionError, RunnerError, OSError) as error:
                    raise AssertionError(f"power cut after call {length} ({state.name}): {error}") from error
    return len(seen)


def test_some_crash_states(straight, resumed, tmp_path, reference):
    assert check_all(straight, range(3, len(straight) + 1, 29), tmp_path / "base", reference) > 30
    check_all(resumed, range(75, len(resumed) + 1, 41), tmp_path / "base", reference)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_crash_state(straight, resumed, tmp_path, reference):
    check_all(straight, range(len(straight) + 1), tmp_path / "base", reference)
    check_all(resumed, range(75, len(resumed) + 1), tmp_path / "base", reference)


def load_bearing(events):
    return sorted({event.kind for event in events if event.call in ("sync", "sync_again", "sync_dir", "link")})


def test_the_recording_knows_every_sync_and_link(straight, resumed):
    kinds = load_bearing(straight)
    assert len(kinds) >= 15
    assert {kind for kind in load_bearing(resumed) if kind not in kinds} == {
        ("sync_again", "/out/.runner/journals/N-N.arrows")
    }


def fails_without(kind, events, base, reference):
    poorer = without(events, kind)

    def shows_late(length):
        """Backwards; what a missing sync loses shows most often where the job claims success, or behind a promise."""
        call = poorer[length - 1].call
        return length % 8 > 0 or length < len(poorer) - 16, call not in ("link", "mark", "rename"), call, -length

    prefixes = sorted(range(1, len(poorer) + 1), key=shows_late)
    try:
        check_all(poorer, prefixes, base, reference)
    except AssertionError:
        return True
    return False


@pytest.mark.timeout(600)
def test_no_sync_and_no_link_can_go(straight, resumed, tmp_path, reference):
    recordings = dict.fromkeys(load_bearing(straight), straight)
    recordings |= {kind: resumed for kind in load_bearing(resumed) if kind not in recordings}
    needless = [
        kind for kind, events in recordings.items() if not fails_without(kind, events, tmp_path / "base", reference)
    ]
    assert needless == []
