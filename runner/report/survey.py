"""What the prompts of an input look like: lengths, twins, shared beginnings. Takes one prompt at a time."""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from runner.report.plain import table

_BAR = 40
_MAX_PREFIXES = 2_000_000
_FAR = 20  # times the median: a value beyond would leave most bins of equal width empty
_CUT = 4  # times the median, where the bins of equal width then end


class PromptSurvey:
    """Counts over the prompts added; ``block_size`` tokens is what the engine's prefix cache shares."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._prompts: set[bytes] = set()
        self._prefixes: set[int] = set()
        self.lengths: list[int] = []
        self.duplicates = 0
        self.shared_tokens = 0

    def add(self, token_ids: Sequence[int]) -> None:
        ids = array("i", token_ids)
        self.lengths.append(len(ids))
        key = hashlib.blake2b(ids.tobytes(), digest_size=12).digest()
        self.duplicates += key in self._prompts
        self._prompts.add(key)
        self.shared_tokens += self._seen_before(ids)

    @property
    def shared_share(self) -> float:
        """The share of the prompt tokens that stood at the beginning of an earlier prompt too."""
        return self.shared_tokens / max(sum(self.lengths), 1)

    def _seen_before(self, ids: array[int]) -> int:
        """Tokens of the longest run of whole blocks that another prompt began with."""
        shared, chain, is_new = 0, 0, False
        for start in range(0, len(ids) - self._block_size + 1, self._block_size):
            chain = hash((chain, ids[start : start + self._block_size].tobytes()))
            is_new = is_new or chain not in self._prefixes
            if not is_new:
                shared += self._block_size
            elif len(self._prefixes) < _MAX_PREFIXES:
                self._prefixes.add(chain)
        return shared


@dataclass(frozen=True)
class Bin:
    low: int
    high: int  # exclusive
    count: int


def bins(values: Sequence[int], num_bins: int = 10) -> list[Bin]:
    """Equal steps of a round width from the smallest value to the largest; see `bins_of_counts` for the last one."""
    return bins_of_counts(Counter(values), num_bins)


def bins_of_counts(values: Mapping[int, int], num_bins: int = 10) -> list[Bin]:
    """As `bins`, of values that are counted already.

    Where the largest lies far from most, the last bin is wide and takes all that do, or the others would share one.
    """
    if not values:
        return []
    low, high = min(values), max(values)
    middle = max(_median(values), 1)
    is_cut = high > _FAR * middle
    end = _CUT * middle if is_cut else high
    width = round_up((end + 1 - low) / num_bins)
    first, last = low // width, end // width + is_cut
    counts: Counter[int] = Counter()
    for value, count in values.items():
        counts[min(value // width, last)] += count
    found = [Bin(i * width, (i + 1) * width, counts[i]) for i in range(first, last + 1)]
    return [*found[:-1], replace(found[-1], high=high + 1)] if is_cut else found


def _median(values: Mapping[int, int]) -> int:
    ordered = sorted(values)
    ranks = list(accumulate(values[value] for value in ordered))
    return ordered[bisect_left(ranks, ranks[-1] / 2)]


def histogram(values: Sequence[int]) -> str:
    """A bar of text for each bin."""
    found = bins(values)
    most = max((item.count for item in found), default=1)
    rows = [(f"{b.low:,}-{b.high - 1:,}", f"{b.count:,}", "█" * -(-b.count * _BAR // most)) for b in found]
    return table(rows) if rows else ""


def quantile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    step = 1
    while step < width:
        for factor in (2, 5, 10):
            if step * factor >= width:
                return step * factor
        step *= 10
    return step
