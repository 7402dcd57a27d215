"""Sizes of tiles on the host. Triton's own functions of these names cost 2 us a call, at every layer of a step."""

from __future__ import annotations

from functools import cache as once

import torch

_MIN_DOT = 16  # the smallest side of a tensor core product


@once
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have to itself: 232,448 on an H100, which stands for a device that is none."""
    if device.type != "cuda":
        return 232_448
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``, which is at least 1."""
    return 1 << (number - 1).bit_length()


def dot_side(number: int) -> int:
    """The side of a product that holds ``number`` rows or columns."""
    return max(_MIN_DOT, power_of_two(number))
