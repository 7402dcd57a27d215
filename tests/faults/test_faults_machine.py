"""A Hypothesis state machine over {write, flush, crash, resume, second runner, finish}."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from fault_checker import check_readable, check_whole, contents
from faulty_disk import Dead, DyingDisk
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tiny_job import result_of, run_job, tiny_spec

from runner.errors import LockedError
from runner.output import Output, lock

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Life(RuleBasedStateMachine):
    """One folder through its lives; a crash is a disk that lets nothing more through."""

    reference: dict[str, bytes]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="faults-", dir=MEMORY))
        self.path = self.base / "out"
        self.output: Output | None = None
        self.disk: DyingDisk | None = None
        self.waiting: list[int] = []
        self.unflushed: set[int] = set()
        self.durable: set[int] = set()

    @rule()
    @precondition(lambda self: self.output is None)
    def resume(self) -> None:
        self.disk = DyingDisk()
        self.output = Output.open(self.path, tiny_spec(sync_seconds=1000.0, max_open_ranges=2), self.disk)
        self.take()

    def take(self) -> None:
        while (item := self.output.take_range()) is not None:
            rows = set(range(item.start, item.stop)) - item.done
            assert not rows & self.durable
            self.waiting += sorted(rows)

    @rule(data=st.data(), count=st.integers(1, 20))
    @precondition(lambda self: self.output is not None and self.waiting)
    def write(self, data, count) -> None:
        for _ in range(min(count, len(self.waiting))):
            row = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            self.output.write(result_of(row))
            self.unflushed.add(row)
        self.take()

    @rule()
    @precondition(lambda self: self.output is not None)
    def flush(self) -> None:
        self.output.flush()
        self.durable |= self.unflushed
        self.unflushed.clear()

    @rule(calls=st.integers(0, 30))
    @precondition(lambda self: self.output is not None)
    def crash(self, calls) -> None:
        """Dies ``calls`` calls further on, on its way to a flush."""
        self.disk.die_at = len(self.disk.calls) + calls
        with suppress(Dead):
            self.output.flush()
        self.disk.die_at = 0
        with suppress(Dead):
            self.output.close()
        self.output = None
        self.waiting.clear()
        self.unflushed.clear()

    @rule()
    @precondition(lambda self: self.output is not None and not self.output.is_done)
    def second_runner(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # Within one process the kernel's lock never says no: say it in its place.
            patch.setattr(lock.FolderLock, "_try", lambda _: False)
            with pytest.raises(LockedError):
                Output.open(self.path, tiny_spec())

    @rule()
    @precondition(lambda self: self.output is not None and not self.waiting)
    def finish(self) -> None:
        summary = self.output.finish()
        self.output.close()
        self.output = None
        self.unflushed.clear()
        assert summary.is_complete and summary.totals.rows == 50
        check_whole(self.path, self.reference)

    @invariant()
    def readers_see_whole_parts(self) -> None:
        if self.path.exists():
            check_readable(self.path, self.reference)

    def teardown(self) -> None:
        if self.output is not None:
            self.output.close()
        shutil.rmtree(self.base)


def run_machine(reference, examples, steps, phases=tuple(Phase)):
    machine = type("Life", (Life,), {"reference": reference})
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=phases,
    )
    machine.TestCase.settings = options
    case = machine.TestCase()
    case.runTest()


def test_a_short_life(reference):
    run_machine(reference, examples=15, steps=25)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_long_life(reference):
    run_machine(reference, examples=300, steps=60)


def test_the_machine_sees_a_lost_row(reference, monkeypatch):
    """A journal that forgets is found out: the machine can fail."""
    from runner.output import journal

    monkeypatch.setattr(journal.JournalWriter, "append", lambda self, batch: None)
    with pytest.raises(AssertionError):
        run_machine(reference, examples=60, steps=40, phases=[Phase.generate])


def test_the_reference_is_deterministic(tmp_path, reference):
    run_job(tmp_path / "out", tiny_spec(), order=lambda rows: rows[::-1])
    assert contents(tmp_path / "out") == reference
