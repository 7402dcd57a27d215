"""Where rows come from: inventory, readers, rendering."""

from runner.input.inventory import (
    Change,
    Comparison,
    Inventory,
    build_inventory,
    compare_inventory,
    extend_inventory,
)
from runner.input.reader import InventoryReader
from runner.input.render import RenderCounts, Renderer, refuse_absent

__all__ = [
    "Change",
    "Comparison",
    "Inventory",
    "InventoryReader",
    "RenderCounts",
    "Renderer",
    "build_inventory",
    "compare_inventory",
    "extend_inventory",
    "refuse_absent",
]
