"""A model runner without a model: the next token of a sequence is a function of its position and slot history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runner.engine.device_times import DeviceTimes
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.slots import SlotTable


@dataclass
class StubLaunched:
    plan: StepPlan
    tokens: np.ndarray
    status: np.ndarray


def stub_token(prompt: np.ndarray, index: int) -> int:
    """The token at ``index`` (0 is the first output) of the answer to a prompt."""
    return int((int(prompt.sum()) * 31 + (len(prompt) + index) * 7919) % 997)


def stub_answer(prompt: list[int], max_tokens: int, stop_below: int) -> list[int]:
    """What an engine over `StubRunner` must return."""
    answer = []
    for index in range(max_tokens):
        answer.append(stub_token(np.array(prompt, np.int32), index))
        if answer[-1] < stop_below:
            break
    return answer


class StubRunner:
    """Replays block updates and checks that every position that is read was written by its own sequence."""

    def __init__(self, block_size: int, stop_below: int = 0) -> None:
        self._block_size = block_size
        self._stop_below = stop_below
        self.times = DeviceTimes()
        self._content: dict[tuple[int, int], tuple[int, ...]] = {}  # (block, offset) -> prefix that was computed there
        self._tables: dict[int, dict[int, int]] = {}
        self._lengths: dict[int, int] = {}

    def launch(self, plan: StepPlan, table: SlotTable) -> StubLaunched:
        for updates in plan.block_updates:
            for slot, index, block in updates.tolist():
                self._tables.setdefault(slot, {})[index] = block
        tokens = []
        for slot in plan.decode.tolist():
            position = self._lengths[slot]
            self._lengths[slot] = position + 1
            tokens.append(self._compute(table, slot, position, position + 1))
        for chunk in plan.chunks:
            token = self._compute(table, chunk.slot, chunk.start, chunk.start + chunk.count)
            self._lengths[chunk.slot] = chunk.start + chunk.count
            if chunk.final:
                tokens.append(token)
        values = np.array(tokens, np.int32)
        return StubLaunched(plan, values, (values < self._stop_below).astype(np.int32))

    def prepare(self, launched: StubLaunched, num_rows: int) -> None:
        pass

    def results(self, launched: StubLaunched) -> StepResults:
        return StepResults(launched.tokens, launched.status)

    def recover(self) -> None:
        self._content.clear()

    def _compute(self, table: SlotTable, slot: int, start: int, stop: int) -> int:
        """Writes positions [start, stop) and reads all before ``stop``: each must hold this sequence's own prefix."""
        sequence = table.sequences[slot]
        assert sequence is not None
        prompt = sequence.prompt.token_ids
        history = [*prompt.tolist(), *(stub_token(prompt, i) for i in range(stop - len(prompt)))]
        for position in range(start, stop):
            self._content[self._place(slot, position)] = tuple(history[: position + 1])
        for position in range(stop):
            assert self._content.get(self._place(slot, position)) == tuple(history[: position + 1]), (
                f"slot {slot} reads position {position}, which holds another sequence's KV"
            )
        return stub_token(prompt, stop - len(prompt))

    def _place(self, slot: int, position: int) -> tuple[int, int]:
        return self._tables[slot][position // self._block_size], position % self._block_size
