"""A model runner without a model: the next token of a sequence is a function of its position and slot history."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.engine.device_times import DeviceTimes
from runner.engine.plan import StepPlan
from runner.engine.results import StepResults
from runner.engine.sequence import Sequence
from runner.engine.slots import SlotTable


@dataclass
class StubLaunched:
    plan: StepPlan
    tokens: np.ndarray
    status: np.ndarray
    looks: int = 0

    @property
    def is_done(self) -> bool:
        """Prompts beside rows are found to be done at the third look."""
        self.looks += 1
        return self.looks > 2


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
    """Replays block updates and checks that every position that is read was written by its own sequence.

    With ``late_prompts`` a step of prompts happens as late as it may beside rows: when its results are read, or before
    rows that are ordered behind it.
    """

    def __init__(self, block_size: int, stop_below: int = 0, late_prompts: bool = False) -> None:
        self._block_size = block_size
        self._stop_below = stop_below
        self._late_prompts = late_prompts
        self.times = DeviceTimes()
        self._content: dict[tuple[int, int], tuple[int, ...]] = {}  # (block, offset) -> prefix that was computed there
        self._tables: dict[int, dict[int, int]] = {}
        self._lengths: dict[int, int] = {}
        self._late: deque[Callable[[], None]] = deque()
        self._unread: dict[int, set[tuple[int, int]]] = {}  # what there is of each step in flight, by its plan's id

    def launch(self, plan: StepPlan, table: SlotTable) -> StubLaunched:
        written = self._unread[id(plan)] = set()
        if plan.chunks:
            sequences = [(c.sequence, c.slot, c.start, c.start + c.count, c.final) for c in plan.chunks]
            self._late.append(lambda: self._compute_prompts(plan, sequences, written))
            tokens = [_token(sequence, stop) for sequence, _, _, stop, final in sequences if final]
            if not self._late_prompts:
                self._run_late()
        else:
            if plan.after_prompts:
                self._run_late()
            self._update(plan)
            tokens = []
            for slot in plan.decode.tolist():
                sequence, position = table.sequences[slot], self._lengths[slot]
                assert sequence is not None
                self._lengths[slot] = position + 1
                self._compute(sequence, slot, position, position + 1, written)
                tokens.append(_token(sequence, position + 1))
        values = np.array(tokens, np.int32)
        return StubLaunched(plan, values, (values < self._stop_below).astype(np.int32))

    def prepare(self, launched: StubLaunched, num_rows: int) -> None:
        pass

    def results(self, launched: StubLaunched) -> StepResults:
        if launched.plan.chunks:
            self._run_late()
        del self._unread[id(launched.plan)]
        return StepResults(launched.tokens, launched.status)

    def recover(self) -> None:
        """The steps in flight did not run; what was there before stays."""
        for place in set().union(*self._unread.values()):
            self._content.pop(place, None)
        self._unread.clear()
        self._late.clear()

    def _run_late(self) -> None:
        while self._late:
            self._late.popleft()()

    def _update(self, plan: StepPlan) -> None:
        for updates in plan.block_updates:
            for slot, index, block in updates.tolist():
                self._tables.setdefault(slot, {})[index] = block

    def _compute_prompts(
        self,
        plan: StepPlan,
        sequences: list[tuple[Sequence, int, int, int, bool]],
        written: set[tuple[int, int]],
    ) -> None:
        self._update(plan)
        for sequence, slot, start, stop, _ in sequences:
            self._compute(sequence, slot, start, stop, written)
            self._lengths[slot] = stop

    def _compute(self, sequence: Sequence, slot: int, start: int, stop: int, written: set[tuple[int, int]]) -> None:
        """Writes positions [start, stop) and reads all before ``stop``: each must hold this sequence's own prefix."""
        prompt = sequence.prompt.token_ids
        history = [*prompt.tolist(), *(stub_token(prompt, i) for i in range(stop - len(prompt)))]
        for position in range(start, stop):
            self._content[self._place(slot, position)] = tuple(history[: position + 1])
        places = {self._place(slot, position) for position in range(start, stop)}
        for others in self._unread.values():
            others -= places  # what an earlier step has written there is gone
        written |= places
        for position in range(stop):
            assert self._content.get(self._place(slot, position)) == tuple(history[: position + 1]), (
                f"slot {slot} reads position {position}, which holds another sequence's KV"
            )

    def _place(self, slot: int, position: int) -> tuple[int, int]:
        return self._tables[slot][position // self._block_size], position % self._block_size


def _token(sequence: Sequence, position: int) -> int:
    prompt = sequence.prompt.token_ids
    return stub_token(prompt, position - len(prompt))
