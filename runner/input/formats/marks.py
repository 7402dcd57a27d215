"""Places in a text file to seek to."""

from __future__ import annotations

from bisect import bisect_right

MAX_MARKS = 4096


class Marks:
    """Evenly spread [row, offset in bytes, line number] triples; their number stays bounded by thinning."""

    def __init__(self) -> None:
        self.kept: list[list[int]] = []
        self._step = 1
        self._offered = 0

    def offer(self, row: int, offset: int, number: int) -> None:
        if self._offered % self._step == 0:
            self.kept.append([row, offset, number])
        self._offered += 1
        if len(self.kept) > MAX_MARKS:
            self.kept = self.kept[::2]
            self._step *= 2


def nearest(marks: list[list[int]], start: int) -> tuple[int, int, int]:
    """The last mark at or before row ``start``; the file's beginning where there is none."""
    index = bisect_right(marks, start, key=lambda mark: mark[0])
    row, offset, number = marks[index - 1] if index else (0, 0, 1)
    return row, offset, number
