"""Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before triton is imported."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

_ROOT = Path(__file__).parents[1]


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


def told_by(program: Path, cache: Path) -> Any:
    """The JSON that a program writes which runs Triton's compiler, with its cache in a folder of its own."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    command = [sys.executable, str(program)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
