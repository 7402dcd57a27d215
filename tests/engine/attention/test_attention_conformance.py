"""Every backend against the definition in float64, on a poisoned cache."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from attention_cases import Case, Step, attend, make_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.engine.attention import BACKENDS, backend_class, load_backend

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _missing(name: str) -> str | None:
    """Why a backend cannot run here."""
    if name == "reference":
        return None
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return None if CUDA or INTERPRETED else "needs CUDA or TRITON_INTERPRET=1"
    return None if CUDA and importlib.util.find_spec("flash_attn_interface") else "needs CUDA and FlashAttention-3"


@pytest.fixture(params=sorted(BACKENDS))
def backend_name(request: pytest.FixtureRequest) -> str:
    reason = _missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


TABLE = {
    "one token": Case(decode=(1,)),
    "ragged": Case(decode=(1, 15, 16, 17, 63, 64, 65, 130, 300)),
    "padding rows": Case(decode=(20, 33), padding_rows=3),
    "only padding": Case(padding_rows=2),
    "mha": Case(decode=(40, 7), heads=3, kv_heads=3),
    "gqa 3": Case(decode=(40, 7), heads=9, kv_heads=3),
    "mqa 8": Case(decode=(70, 21), heads=8, kv_heads=1),
    "group 32": Case(decode=(70, 21), heads=32, kv_heads=1),
    "head dim 80": Case(decode=(50, 18), prefill=((0, 20),), head_dim=80),
    "head dim 96": Case(decode=(50,), prefill=((17, 20),), head_dim=96),
    "head dim 256": Case(decode=(50, 18), prefill=((3, 20),), head_dim=256),
    "values narrower": Case(decode=(50, 18), prefill=((3, 20), (0, 9)), head_dim=96, value_dim=64),
    "blocks of 32": Case(decode=(50, 97), prefill=((33, 40),), block_size=32),
    "blocks of 128": Case(decode=(50, 130), prefill=((33, 100),), block_size=128),
    "fresh prefill": Case(prefill=((0, 1), (0, 16), (0, 70), (0, 33))),
    "chunk boundaries": Case(prefill=((16, 16), (15, 1), (64, 65), (1, 40))),
    "rows and prompts": Case(decode=(33, 90, 5), prefill=((0, 40), (24, 9)), padding_rows=1),
    "window": Case(decode=(5, 20, 21, 150), prefill=((0, 50), (30, 45)), window=20),
    "window of one": Case(decode=(5, 64), prefill=((0, 10), (16, 3)), window=1),
    "window over blocks": Case(decode=(200, 64), prefill=((100, 70),), window=64),
    "soft cap": Case(decode=(90, 3), prefill=((0, 33), (10, 20)), soft_cap=2.0),
    "sinks": Case(decode=(90, 3), prefill=((0, 33), (10, 20)), sinks=True, heads=8),
    "everything": Case(
        decode=(90, 3), prefill=((0, 33), (10, 20)), sinks=True, soft_cap=3.0, window=17, head_dim=80, padding_rows=2
    ),
    "long row among short": Case(decode=(900, 3, 2, 40), kv_heads=1, heads=4),
    "rows that fill a card": Case(decode=(700, *range(1, 32)), heads=8, kv_heads=8, head_dim=16),
    "rows that half fill it": Case(decode=(*range(1, 16), 900), heads=8, kv_heads=8, head_dim=16),
}
TABLE |= {
    "shared beginning": Case(decode=(65, 70, 130, 200), shared=64, sharing=(0, 1, 2, 3)),
    "some share it": Case(decode=(5, 300, 129, 150, 64, 260), shared=128, sharing=(1, 2, 5), padding_rows=2),
    "more rows than a tile": Case(decode=tuple(range(130, 200)), shared=128, sharing=tuple(range(0, 70, 3)), heads=8),
    "a long beginning in parts": Case(decode=(1100, 1030, 7), shared=1024, sharing=(0, 1), heads=4, kv_heads=1),
    "shared, mha, narrow values": Case(
        decode=(80, 99, 3), shared=64, sharing=(0, 1), heads=3, kv_heads=3, head_dim=80, value_dim=64, block_size=32
    ),
    "shared with sinks and soft cap": Case(
        decode=(80, 99, 3), shared=64, sharing=(0, 1), sinks=True, soft_cap=3.0, heads=6, kv_heads=2
    ),
    "wide heads share": Case(decode=(80, 99, 3), shared=64, sharing=(0, 1), head_dim=256),
    "shared under a window": Case(decode=(80, 99, 3), shared=64, sharing=(0, 1), window=20),
    "shared, and prompts": Case(decode=(80, 99, 3), prefill=((0, 20), (16, 30)), shared=64, sharing=(0, 1)),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def _attend(backend_name: str, case: Case) -> tuple[Step, torch.Tensor] | None:
    """Runs a case; None where the backend says that it does not serve such cases."""
    if backend_class(backend_name).supports(case.spec, case.dtype, case.block_size) is not None:
        return None
    device = torch.device("cuda" if CUDA and backend_name != "reference" else "cpu")
    step = make_step(case, device)
    rows = max(1, step.batch.num_decode)
    backend = load_backend(backend_name, [case.spec], rows, device, case.dtype, case.block_size)
    return step, attend(backend, case.spec, step)


def _check(backend_name: str, case: Case) -> None:
    result = _attend(backend_name, case)
    if result is None:
        pytest.skip("refused by supports()")
    step, out = result
    assert out.shape == step.expected.shape
    assert out.dtype == case.dtype
    expected, got = step.expected[step.live], out[step.live].double()
    assert torch.isfinite(got).all()
    error = (got - expected).norm() / expected.norm().clamp(min=1e-9)
    assert error < TOLERANCE[case.dtype], f"relative error {error:.2e}"
    block, offset = step.written // case.block_size, step.written % case.block_size
    assert torch.equal(step.cache.key[block, offset], step.key[step.live])
    assert torch.equal(step.cache.value[block, offset], step.value[step.live])


@pytest.mark.parametrize("name", TABLE)
def test_backend_matches_the_definition(backend_name: str, name: str) -> None:
    _check(backend_name, TABLE[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backend_matches_in_half_precision(backend_name: str, dtype: torch.dtype) -> None:
    if backend_name == "triton" and not CUDA and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bfloat16 as integers")
    _check(backend_name, Case(decode=(90, 300, 17), prefill=((0, 70), (33, 40)), heads=8, head_dim=128, dtype=dtype))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv_heads = draw(st.integers(1, 3))
    return Case(
        decode=tuple(draw(st.lists(st.integers(1, 150), max_size=6))),
        prefill=tuple(draw(st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), max_size=3))),
        padding_rows=draw(st.integers(0, 2)),
        kv_heads=kv_heads,
        heads=kv_heads * draw(st.integers(1, 8)),
        head_dim=draw(st.sampled_from([64, 80, 128])),
        block_size=draw(st.sampled_from([16, 32, 64])),
        window=draw(st.sampled_from([0, 0, 1, 16, 33])),
        soft_cap=draw(st.sampled_from([0.0, 0.0, 4.0])),
        sinks=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_backend_matches_on_random_steps(backend_name: str, case: Case) -> None:
    if case.decode or case.prefill or case.padding_rows:
        _check(backend_name, case)
