"""How a run ends its engine: in order when the work is done, at once when the run is torn down."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runner.echo import EchoEngine
from runner.run.recovery import RestartingEngine
from runner.signals import Overdue
from runner.types import EngineRequest


class Recorded(EchoEngine):
    """Notes how it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def kill(self) -> None:
        self.calls.append("kill")

    def close(self) -> None:
        self.calls.append("close")


def test_an_engine_whose_work_is_done_is_closed() -> None:
    client = Recorded()
    with RestartingEngine(lambda: client) as engine:
        engine.start()
    assert client.calls == ["close"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Overdue, ValueError])
def test_an_interrupt_or_an_error_does_not_wait_for_the_engine(error: type[BaseException]) -> None:
    client = Recorded()
    with pytest.raises(error), RestartingEngine(lambda: client) as engine:
        engine.start()
        raise error
    assert client.calls == ["kill", "close"]


def test_an_engine_that_was_never_made_is_not_ended() -> None:
    with pytest.raises(KeyboardInterrupt), RestartingEngine(Recorded):
        raise KeyboardInterrupt


class Closing(EchoEngine):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self.calls.append("submit")

    def close_input(self) -> None:
        self.calls.append("close")


def test_the_input_is_closed_once_after_each_submission() -> None:
    """What comes later, from a process that died, say, is to be put in order as well."""
    client = Closing()
    engine = RestartingEngine(lambda: client)
    for _ in range(2):
        engine.submit([])
        engine.close_input()
        engine.close_input()
    assert client.calls == ["submit", "close"] * 2
