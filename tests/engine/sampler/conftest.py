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
def sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    from runner.engine.sampler.torch_sampler import TorchSampler

    if request.param == "torch":
        return TorchSampler()
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from runner.engine.sampler import triton_sampler

    if DEVICE == "cpu":  # the interpreter's time goes with the size of a tile, full or not
        for name, size in {"LOGPROBS_TILE": 128, "SURVEY_TILE": 256, "FLOOR_TILE": 256, "CANDIDATES": 64}.items():
            monkeypatch.setattr(triton_sampler, name, size)
    return triton_sampler.TritonSampler()
