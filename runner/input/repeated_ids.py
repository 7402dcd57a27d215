"""Do the rows' own ids repeat? Asked in the one pass over the input, of its first rows, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

ID_COLUMNS = ("id", "custom_id")
MAX_IDS = 1_000_000


class RepeatedIds:
    """Keeps a 64-bit hash of each of the first MAX_IDS ids of each id column; values that are no ids do not count."""

    def __init__(self) -> None:
        self._hashes: dict[str, list[np.ndarray]] = {}
        self._num_kept: dict[str, int] = {}

    def wanted(self, names: Iterable[str]) -> list[str]:
        """The id columns among ``names`` of which more values are wanted."""
        present = set(names)
        return [name for name in ID_COLUMNS if name in present and self._num_kept.get(name, 0) < MAX_IDS]

    def add(self, name: str, values: Sequence[Any]) -> None:
        room = MAX_IDS - self._num_kept.get(name, 0)
        ids = [hash(value) for value in values[:room] if isinstance(value, str | int)]
        self._hashes.setdefault(name, []).append(np.array(ids, np.int64))
        self._num_kept[name] = self._num_kept.get(name, 0) + len(ids)

    def warn(self) -> None:
        """One line for each id column whose values repeat."""
        for name, parts in self._hashes.items():
            num_ids = self._num_kept[name]
            num_repeated = num_ids - len(np.unique(np.concatenate(parts)))
            if num_repeated:
                log.warning(
                    "column %r: %d of the first %d ids repeat; row_id still tells each row apart",
                    name,
                    num_repeated,
                    num_ids,
                )
