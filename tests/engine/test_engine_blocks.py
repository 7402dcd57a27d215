"""Blocks: nothing is handed out twice, nothing leaks, and a hit is always the right content."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engine.block_manager import BlockManager, OutOfBlocksError, hash_blocks


def test_hash_chain_covers_everything_before() -> None:
    first, second = np.arange(8, dtype=np.int32), np.array([9, 1, 2, 3, 4, 5, 6, 7], np.int32)
    a, b = hash_blocks(first, 4), hash_blocks(second, 4)
    assert len(a) == 2
    assert not set(a) & set(b), "the second blocks hold the same tokens behind different ones"
    assert hash_blocks(first[:7], 4) == a[:1]
    assert hash_blocks(first, 4, b"salt") != a


def test_allocate_more_than_there_is_raises() -> None:
    blocks = BlockManager(4)
    blocks.allocate(3)
    with pytest.raises(OutOfBlocksError):
        blocks.allocate(2)


def test_freed_twice_is_found() -> None:
    blocks = BlockManager(4)
    taken = blocks.allocate(2)
    blocks.free(taken)
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.free(taken)


def test_the_least_recently_used_end_of_a_chain_goes_first() -> None:
    blocks = BlockManager(4)
    chain = hash_blocks(np.arange(16, dtype=np.int32), 4)
    taken = blocks.allocate(4)
    for block, digest in zip(taken.tolist(), chain, strict=True):
        blocks.register(block, digest)
    blocks.free(taken)
    blocks.allocate(2)
    np.testing.assert_array_equal(blocks.lookup(chain), taken[:2])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["new", "free", "forget"]), st.integers(0, 6), st.integers(0, 5)), max_size=60)
)
def test_any_history_balances(history: list[tuple[str, int, int]]) -> None:
    """Sequences over six prompts that share beginnings come and go; each must find only its own content."""
    manager, held, content = BlockManager(12), [], {}
    for action, which, length in history:
        if action == "free" and held:
            manager.free(held.pop(which % len(held)))
        elif action == "forget":
            manager.forget_all()
        elif action == "new":
            chain = hash_blocks(np.array([which // 2] * 4 + [which] * 4 * length, np.int32), 4)
            hits = manager.lookup(chain)
            assert [content[b] for b in hits.tolist()] == chain[: len(hits)]
            missing = len(chain) - len(hits)
            if missing + manager.num_idle(hits) > manager.num_available:
                continue
            manager.reference(hits)
            fresh = manager.allocate(missing)
            for block, digest in zip(fresh.tolist(), chain[len(hits) :], strict=True):
                assert not any(block in blocks for blocks in held), "a block in use was handed out"
                content[block] = digest
                manager.register(block, digest)
            held.append(np.concatenate([hits, fresh]))
        manager.check_balance(len({b for blocks in held for b in blocks.tolist()}))
