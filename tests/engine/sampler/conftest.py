"""Tests that ask for ``sampler`` run with every implementation; without a GPU Triton runs in its interpreter."""

import importlib.util
import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture(params=["torch", "triton"])
def sampler(request: pytest.FixtureRequest):
    from runner.engine.sampler.torch_sampler import TorchSampler

    if request.param == "torch":
        return TorchSampler()
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from runner.engine.sampler.triton_sampler import TritonSampler

    return TritonSampler()
