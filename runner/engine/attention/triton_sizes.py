"""Sizes of tiles on the host. Triton's own functions of these names cost 2 us a call, at every layer of a step."""

from __future__ import annotations

_MIN_DOT = 16  # the smallest side of a tensor core product


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``, which is at least 1."""
    return 1 << (number - 1).bit_length()


def dot_side(number: int) -> int:
    """The side of a product that holds ``number`` rows or columns."""
    return max(_MIN_DOT, power_of_two(number))
