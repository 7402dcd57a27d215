"""Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before triton is imported."""

import importlib.util
import os
from typing import Any

import torch


def _accept_new_numpy() -> None:
    """Triton 3.6's interpreter takes int() of arrays of shape [1] as loop bounds, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    if getattr(interpreter._patch_lang_tensor, "__name__", "") == "patched":
        return
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def choose_interpreter() -> None:
    """Does nothing where there is a GPU, or no Triton."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return
    os.environ["TRITON_INTERPRET"] = "1"
    _accept_new_numpy()
