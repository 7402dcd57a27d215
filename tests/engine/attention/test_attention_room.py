"""The kernels fit the multiprocessors of cards that are smaller than an H100."""

from __future__ import annotations

from pathlib import Path

from triton_interpreter import told_by


def test_tiles_fit_a_small_card(tmp_path: Path) -> None:
    told = told_by(Path(__file__).with_name("compile_for_cards.py"), tmp_path)
    assert len(told["kernels"]) == 12
    assert {what: size for what, size in told["kernels"].items() if size > told["limit"]} == {}
