"""How many multiprocessors cuBLAS uses for matrix products."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

log = logging.getLogger(__name__)

_ALL = 0


@contextmanager
def products_on(count: int) -> Iterator[None]:
    """Products that are launched within use at most ``count`` multiprocessors of the current device."""
    library = _cublas()
    if library is None:
        yield
        return
    _tell(library, count)
    try:
        yield
    finally:
        _tell(library, _ALL)


def _tell(library: ctypes.CDLL, count: int) -> None:
    handle = ctypes.c_void_p(torch.cuda.current_blas_handle())
    status = library.cublasSetSmCountTarget(handle, ctypes.c_int(count))
    if status:
        raise RuntimeError(f"cublasSetSmCountTarget({count}) returned {status}")


@cache
def _cublas() -> ctypes.CDLL | None:
    """The library that torch has loaded; torch itself has no call for this setting."""
    name = f"libcublas.so.{(torch.version.cuda or '').partition('.')[0]}"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        log.warning("prompts are computed beside running rows at less than full speed: %s", error)
        return None
