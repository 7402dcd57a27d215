"""Which KV block belongs to whom: free blocks, reference counts and the prefix cache.

A block is in exactly one state: *used* (referenced by sequences), *cached* (unreferenced, but its content is a
known prompt prefix and can be hit until it is evicted, least recently used first) or *free*.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np


class OutOfBlocksError(Exception):
    """More blocks were asked for than are free or cached."""


def hash_blocks(token_ids: np.ndarray, block_size: int, salt: bytes = b"") -> list[bytes]:
    """The chain of hashes of the full blocks of a prompt: each covers all tokens up to its end.

    128 bits, so that a collision, which would silently give a row another row's prefix, does not happen.
    """
    tokens = np.ascontiguousarray(token_ids, dtype=np.int32)
    chain, digest = [], salt
    for start in range(0, len(tokens) - block_size + 1, block_size):
        digest = hashlib.blake2b(digest + tokens[start : start + block_size].tobytes(), digest_size=16).digest()
        chain.append(digest)
    return chain


class BlockManager:
    """Hands out ``num_blocks`` blocks. All methods take and give numpy int32 arrays of block indices."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._stack = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)  # the first num_free are free
        self._num_free = num_blocks
        self._refs = np.zeros(num_blocks, dtype=np.int32)
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # unreferenced hashed blocks, oldest first

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return self._num_free + len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def allocate(self, count: int) -> np.ndarray:
        if count > self.num_available:
            raise OutOfBlocksError(f"{count} blocks wanted, {self.num_available} available")
        while self._num_free < count:
            self._evict()
        self._num_free -= count
        blocks = self._stack[self._num_free : self._num_free + count].copy()
        self._refs[blocks] = 1
        return blocks

    def free(self, blocks: np.ndarray) -> None:
        """Drops one reference to each block; ``blocks`` holds no duplicates."""
        assert (self._refs[blocks] > 0).all(), "a block was freed twice"
        self._refs[blocks] -= 1
        idle = blocks[self._refs[blocks] == 0]
        if self._hash_of:
            hashed = [block for block in idle.tolist() if block in self._hash_of]
            if hashed:
                self._cached.update(dict.fromkeys(reversed(hashed)))  # the end of a chain is evicted before its start
                idle = idle[~np.isin(idle, hashed)]
        self._push(idle)

    def lookup(self, chain: list[bytes]) -> np.ndarray:
        """The longest run of known blocks at the start of ``chain``; takes no reference."""
        hits = []
        for digest in chain:
            block = self._block_of.get(digest)
            if block is None:
                break
            hits.append(block)
        return np.array(hits, dtype=np.int32)

    def num_idle(self, blocks: np.ndarray) -> int:
        """How many of ``blocks`` are cached, that is, would leave `num_available` when referenced."""
        return int((self._refs[blocks] == 0).sum())

    def reference(self, blocks: np.ndarray) -> None:
        """Takes a reference to blocks that `lookup` found."""
        for block in blocks[self._refs[blocks] == 0].tolist():
            del self._cached[block]
        self._refs[blocks] += 1

    def register(self, block: int, digest: bytes) -> None:
        """Makes a used block findable. The first block of a content stays the one that is found."""
        if digest not in self._block_of and block not in self._hash_of:
            self._block_of[digest] = block
            self._hash_of[block] = digest

    def forget_all(self) -> None:
        """Empties the prefix cache: after a failed step the content of blocks is not what was planned."""
        self._push(np.array(list(self._cached), dtype=np.int32))
        self._cached.clear()
        self._hash_of.clear()
        self._block_of.clear()

    def check_balance(self, used: int) -> None:
        """Asserts that free + cached + ``used`` is all there is."""
        assert self._num_free + len(self._cached) + used == self.num_blocks, (
            f"blocks do not balance: {self._num_free} free + {len(self._cached)} cached + {used} used "
            f"of {self.num_blocks}"
        )
        assert int((self._refs > 0).sum()) == used, "reference counts do not match the used blocks"

    def _push(self, blocks: np.ndarray) -> None:
        self._stack[self._num_free : self._num_free + len(blocks)] = blocks
        self._num_free += len(blocks)

    def _evict(self) -> None:
        block, _ = self._cached.popitem(last=False)
        del self._block_of[self._hash_of.pop(block)]
        self._push(np.array([block], dtype=np.int32))
