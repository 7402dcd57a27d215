"""Operations that the compiler calls and does not look into."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("runner", "FRAGMENT")  # operations are registered as long as it lives


def register_operation(name: str, run: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    """Makes ``torch.ops.runner.<name>`` call ``run``, whose signature says its types; it must return new memory.

    ``shape`` returns an empty tensor like the result. Not `torch.library.custom_op`: a profile of prefill steps on an
    H100 laid a fifth of the host's time to its wrapper (on a CPU both took the same).
    """
    _LIBRARY.define(name + torch.library.infer_schema(run, mutates_args=()))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"runner::{name}", shape, lib=_LIBRARY)
