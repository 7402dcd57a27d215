"""The linear kernel for few rows against float64; without a GPU in Triton's interpreter."""

import importlib.util
import os
from typing import Any

import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not CUDA:  # must be chosen before triton is imported
    os.environ["TRITON_INTERPRET"] = "1"

from runner.engine.linear.small import MAX_ROWS, LinearConfig, LinearSpace, small_linear  # noqa: E402

WHOLE = LinearConfig(block_n=16, row_bytes=64, num_stages=2, programs=1)
SPLIT = LinearConfig(block_n=16, row_bytes=64, num_stages=2, programs=64)
LIMITS = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 3e-6}


@pytest.fixture(autouse=not CUDA)
def _accept_new_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter takes int() of arrays of shape [1] as loop bounds, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)


def poisoned(rows: int, columns: int, margin: int, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers inside a larger tensor of NaN: what is read beyond them shows."""
    around = torch.full((rows + margin, columns + 16), float("nan"), dtype=dtype, device=DEVICE)
    inside = around[:rows, :columns]
    inside.copy_(torch.randn(rows, columns))
    return inside


def reserved(weight: torch.Tensor, config: LinearConfig, rows: int) -> LinearSpace:
    space = LinearSpace(DEVICE)
    space.reserve([tuple(weight.shape)], config, weight.dtype, rows)
    space.parts.fill_(float("nan"))
    return space


def error(got: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected += bias.double()
    return ((got.double() - expected).norm() / expected.norm()).item()


# The interpreter multiplies the bits of bfloat16 as whole numbers.
@pytest.mark.parametrize("dtype", LIMITS if CUDA else [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("config", [WHOLE, SPLIT], ids=["whole", "split"])
@pytest.mark.parametrize(
    ("rows", "out_features", "in_features", "has_bias"),
    [(1, 16, 512, False), (5, 33, 512, True), (16, 64, 200, False), (31, 40, 331, True), (64, 48, 256, True)],
)
def test_equals_float64(
    rows: int, out_features: int, in_features: int, has_bias: bool, config: LinearConfig, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows)
    x = poisoned(rows, in_features, 64, dtype)
    weight = poisoned(out_features, in_features, 64, dtype)
    bias = torch.randn(out_features, device=DEVICE).to(dtype) if has_bias else None
    got = small_linear(x, weight, bias, config, reserved(weight, config, rows))
    assert got.shape == (rows, out_features) and got.dtype == dtype
    assert error(got, x, weight, bias) < LIMITS[dtype]


def test_writes_all_of_its_output_and_nothing_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    around = torch.full((2000,), float("nan"), device=DEVICE)
    out = around[500 : 500 + 5 * 33].view(5, 33)
    x, weight = torch.randn(5, 96, device=DEVICE), torch.randn(33, 96, device=DEVICE)
    space = reserved(weight, SPLIT, 5)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: out)
    small_linear(x, weight, None, SPLIT, space)
    assert not out.isnan().any()
    assert around.isnan().sum() == 2000 - 5 * 33


def test_calls_that_share_a_space_leave_it_as_they_found_it() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(33, 512, device=DEVICE), torch.randn(100, 256, device=DEVICE)]
    space = LinearSpace(DEVICE)
    space.reserve([tuple(weight.shape) for weight in weights], SPLIT, torch.float32, MAX_ROWS)
    for rows in (64, 3, 17):
        for weight in weights:
            x = torch.randn(rows, weight.shape[1], device=DEVICE)
            first = small_linear(x, weight, None, SPLIT, space)
            space.parts.fill_(float("nan"))
            assert not space.arrived.any()
            assert small_linear(x, weight, None, SPLIT, space).equal(first)
            assert error(first, x, weight, None) < 3e-6


def test_a_row_keeps_its_bits_whatever_shares_its_tile() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(16, 512, device=DEVICE), torch.randn(33, 512, device=DEVICE)
    space = reserved(weight, SPLIT, 16)
    together = small_linear(x, weight, None, SPLIT, space)
    assert small_linear(x[3:4], weight, None, SPLIT, space).equal(together[3:4])


def test_every_tile_has_its_own_parts_and_its_own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs one after another, where a shared place would not show in the answer."""
    x, weight = torch.randn(16, 512, device=DEVICE), torch.randn(64, 512, device=DEVICE)
    space = reserved(weight, SPLIT, 16)
    out = torch.full((16, 64), float("nan"), device=DEVICE)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: out)
    space.arrived[2] = -1  # this tile's last part will not know that it is the last
    small_linear(x, weight, None, SPLIT, space)
    assert not space.parts.isnan().any()
    assert out.isnan().any(0).nonzero().flatten().tolist() == list(range(32, 48))


@pytest.mark.parametrize("in_features", [1, 64, 331, 4096, 14336])
@pytest.mark.parametrize("out_features", [1, 1024, 6144, 128256])
@pytest.mark.parametrize("config", [WHOLE, SPLIT, LinearConfig()])
def test_parts_cover_the_input_and_none_is_empty(config: LinearConfig, out_features: int, in_features: int) -> None:
    steps_a_part, num_parts = config.steps_of(out_features, in_features, torch.bfloat16)
    width = steps_a_part * config.block_k(torch.bfloat16)
    assert (num_parts - 1) * width < in_features <= num_parts * width
    assert num_parts == 1 or -(-out_features // config.block_n) * num_parts <= config.programs


def test_the_cases_have_several_parts() -> None:
    assert SPLIT.steps_of(33, 512, torch.bfloat16)[1] > 3
    assert WHOLE.steps_of(33, 512, torch.bfloat16)[1] == 1


def test_refuses_a_space_that_is_too_small() -> None:
    x, weight = torch.randn(33, 512, device=DEVICE), torch.randn(33, 512, device=DEVICE)
    with pytest.raises(AssertionError, match="not reserved"):
        small_linear(x, weight, None, SPLIT, reserved(weight, SPLIT, 16))
