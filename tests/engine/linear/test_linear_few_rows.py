"""The linear kernel for few rows against float64; without a GPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from torch.nn import functional

from runner.engine.linear import wide

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from runner.engine.linear import few_rows
from runner.engine.linear.few_rows import MAX_ROWS, few_rows_linear

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
LIMITS = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 3e-6}


@pytest.fixture(autouse=not CUDA)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and several steps of each in matrices that the interpreter can do."""
    monkeypatch.setattr(few_rows, "_BLOCK_N", 16)
    monkeypatch.setattr(few_rows, "_ROW_BYTES", 128)


def poisoned(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers inside a larger tensor of NaN: what is read beyond them shows."""
    around = torch.full((rows + 64, columns + 16), float("nan"), dtype=dtype, device=DEVICE)
    inside = around[:rows, :columns]
    inside.copy_(torch.randn(rows, columns))
    return inside


def error(got: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected += bias.double()
    return ((got.double() - expected).norm() / expected.norm()).item()


# The interpreter multiplies the bits of bfloat16 as whole numbers.
@pytest.mark.parametrize("dtype", LIMITS if CUDA else [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("rows", "out_features", "in_features", "has_bias"),
    [(1, 16, 512, False), (5, 33, 512, True), (16, 64, 200, False), (31, 40, 331, True), (64, 48, 256, True)],
)
def test_equals_float64(rows: int, out_features: int, in_features: int, has_bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    x, weight = poisoned(rows, in_features, dtype), poisoned(out_features, in_features, dtype)
    bias = torch.randn(out_features, device=DEVICE).to(dtype) if has_bias else None
    got = few_rows_linear(x, weight, bias)
    assert got.shape == (rows, out_features)
    assert got.dtype == dtype
    assert error(got, x, weight, bias) < LIMITS[dtype]


def test_writes_all_of_its_output_and_nothing_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    around = torch.full((2000,), float("nan"), device=DEVICE)
    out = around[500 : 500 + 5 * 33].view(5, 33)
    x, weight = torch.randn(5, 96, device=DEVICE), torch.randn(33, 96, device=DEVICE)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: out)
    few_rows_linear(x, weight, None)
    assert not out.isnan().any()
    assert around.isnan().sum() == 2000 - 5 * 33


def test_a_row_keeps_its_bits_whatever_shares_its_tile() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(16, 512, device=DEVICE), torch.randn(33, 512, device=DEVICE)
    assert few_rows_linear(x[3:4], weight, None).equal(few_rows_linear(x, weight, None)[3:4])


@pytest.mark.parametrize("rows", [1, MAX_ROWS, MAX_ROWS + 1, 200])
def test_the_operation_takes_any_number_of_rows(rows: int) -> None:
    x, weight, bias = torch.randn(1, rows, 64), torch.randn(40, 64), torch.randn(40)
    got = wide.wide_linear(x.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)).cpu()
    assert got.shape == (1, rows, 40)
    assert torch.allclose(got, functional.linear(x, weight, bias), atol=1e-4)


def test_only_few_rows_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(few_rows, "few_rows_linear", lambda x, weight, bias: seen.append(len(x)) or x @ weight.T)
    for rows in (0, 1, MAX_ROWS, MAX_ROWS + 1):
        wide.wide_linear(torch.randn(rows, 8), torch.randn(4, 8), None)
    assert seen == [1, MAX_ROWS]


def test_the_compiler_takes_it_whole_for_all_numbers_of_rows() -> None:
    """One graph with a dynamic number of rows; the choice is made inside."""
    calls = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        calls.append(graph)
        return graph

    compiled = torch.compile(wide.wide_linear, backend=backend, dynamic=True, fullgraph=True)
    weight = torch.randn(40, 64, device=DEVICE)
    for rows in (2, 64, 65, 130):
        assert compiled(torch.randn(rows, 64, device=DEVICE), weight, None).shape == (rows, 40)
    assert len(calls) == 1


def test_a_models_head_is_replaced_and_its_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "is_wide", lambda weight: len(weight) >= 128)
    model = tiny_model("qwen2").to(DEVICE)
    tokens = torch.arange(3, 40, device=DEVICE)[None]
    names, expected = list(model.state_dict()), model(tokens, use_cache=False).logits
    wide_ones = [m for m in model.modules() if type(m) is nn.Linear and m.out_features >= 128]
    assert wide.replace_wide_linears(model) == len(wide_ones) > 0
    assert isinstance(model.lm_head, wide.WideLinear)
    assert model.lm_head.weight is model.get_input_embeddings().weight or not model.config.tie_word_embeddings
    assert list(model.state_dict()) == names
    assert torch.allclose(model(tokens, use_cache=False).logits, expected, atol=1e-4)
