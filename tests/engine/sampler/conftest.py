"""Tests that ask for ``sampler`` run with every implementation, and those that ask for ``device`` on every device.

Those on the GPU are marked ``gpu``. Without one Triton runs in its interpreter, which needs a process of its own: where
there is a GPU, the kernels are tested on it alone.
"""

import importlib.util
import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
_DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not HAS_GPU:
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture
def kernel_device(device: str) -> str:
    """A device that Triton's kernels run on in this process."""
    if HAS_GPU and device == "cpu":
        pytest.skip("Triton compiles for the GPU in this process, and does not interpret")
    return device


@pytest.fixture(params=["torch", "triton"])
def sampler(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch):
    from runner.engine.sampler.torch_sampler import TorchSampler

    if request.param == "torch":
        return TorchSampler()
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    request.getfixturevalue("kernel_device")
    from runner.engine.sampler import triton_sampler

    if device == "cpu":  # the interpreter's time goes with the size of a tile, full or not
        for name, size in {"LOGPROBS_TILE": 128, "SURVEY_TILE": 256, "FLOOR_TILE": 256, "CANDIDATES": 64}.items():
            monkeypatch.setattr(triton_sampler, name, size)
    return triton_sampler.TritonSampler()
