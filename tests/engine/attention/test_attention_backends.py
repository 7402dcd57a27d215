"""What the engine relies on beyond right answers: determinism, reuse, strides, refusals."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from attention_cases import Case, Step, attend, dense_attention, make_step

from runner.engine.attention import KVCache, backend_class, default_backend, load_backend
from runner.engine.attention.base import AttentionBackend
from runner.errors import ConfigError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LONG = Case(decode=(400, 33, 257, 64), heads=4, kv_heads=2)


@pytest.fixture(params=["reference", "triton"])
def backend_name(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
    return request.param


def _device(name: str) -> torch.device:
    return torch.device("cpu") if name == "reference" else DEVICE


def _load(name: str, case: Case, rows: int = 16, deterministic: bool = False) -> AttentionBackend:
    return load_backend(name, [case.spec], rows, _device(name), case.dtype, case.block_size, deterministic)


def _assert_close(out: torch.Tensor, step: Step) -> None:
    torch.testing.assert_close(out[step.live].double(), step.expected[step.live], rtol=1e-4, atol=1e-5)


def test_a_deterministic_row_does_not_depend_on_the_others(backend_name: str) -> None:
    case = Case(decode=(400, 33, 257, 64, 390, 300, 310, 650), heads=8, kv_heads=1, head_dim=128, seed=5)
    step = make_step(case, _device(backend_name))
    backend = _load(backend_name, case, deterministic=True)
    together = attend(backend, case.spec, step)
    for row in range(len(case.decode)):
        only = slice(row, row + 1)
        batch = replace(
            step.batch,
            slot_mapping=step.batch.slot_mapping[only],
            rows=step.batch.rows[only],
            decode_lens=step.batch.decode_lens[only],
            num_decode=1,
        )
        backend.plan(batch)
        alone = backend.attend(step.query[only], step.key[only], step.value[only], step.cache, batch, case.spec)
        assert torch.equal(alone, together[only])


def test_one_backend_serves_step_after_step(backend_name: str) -> None:
    backend = _load(backend_name, LONG)
    for lengths in ((400, 33), (1,), (64, 65, 1000, 2, 90, 300), (500,)):
        case = replace(LONG, decode=lengths, seed=sum(lengths))
        step = make_step(case, _device(backend_name))
        _assert_close(attend(backend, case.spec, step), step)


def test_one_backend_serves_full_and_windowed_layers(backend_name: str) -> None:
    full, windowed = LONG, replace(LONG, window=40, kv_heads=1)
    device = _device(backend_name)
    backend = load_backend(backend_name, [full.spec, windowed.spec], 16, device, full.dtype, full.block_size)
    for case in (full, windowed, full):
        step = make_step(case, device)
        _assert_close(attend(backend, case.spec, step), step)


def test_queries_and_keys_may_be_slices_of_one_projection(backend_name: str) -> None:
    case = Case(decode=(50, 3), prefill=((0, 20), (30, 5)), heads=4, kv_heads=2)
    step = make_step(case, _device(backend_name))
    fused = torch.cat((step.query, step.key, step.value), dim=1)
    step.query, step.key, step.value = fused.split([4, 2, 2], dim=1)
    assert not step.query.is_contiguous()
    _assert_close(attend(_load(backend_name, case), case.spec, step), step)


def test_a_cache_may_lie_heads_first(backend_name: str) -> None:
    case = Case(decode=(50, 3), prefill=((0, 20), (30, 5)), heads=4, kv_heads=2)
    step = make_step(case, _device(backend_name))
    step.cache = KVCache(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (step.cache.key, step.cache.value)))
    _assert_close(attend(_load(backend_name, case), case.spec, step), step)


def test_a_padded_prefill_leaves_the_rest_right(backend_name: str) -> None:
    case = Case(prefill=((16, 20), (30, 5)))
    step = make_step(case, _device(backend_name))
    padding = torch.full_like(step.query[:7], float("nan"))
    backend = _load(backend_name, case)
    backend.plan(step.batch)
    backend.write(step.key, step.value, step.cache, step.batch)
    query = torch.cat((step.query, padding))
    out = backend.prefill(query, step.key, step.value, step.cache, step.batch, case.spec)
    assert out.shape[0] == query.shape[0]
    _assert_close(out[: len(step.live)], step)


def test_a_nan_row_stays_alone(backend_name: str) -> None:
    step = make_step(LONG, _device(backend_name))
    step.query[1] = float("nan")
    out = attend(_load(backend_name, LONG), LONG.spec, step)
    assert out[1].isnan().all()
    step.live[1] = False
    _assert_close(out, step)


def test_a_model_that_does_not_fit_is_refused_with_the_reason() -> None:
    pytest.importorskip("triton")
    case = Case(decode=(4,), block_size=24)
    with pytest.raises(ConfigError, match=r"engine\.block_size=24 is not a power of two"):
        _load("triton", case)
    with pytest.raises(ConfigError, match="heads are wider than 256"):
        _load("triton", Case(head_dim=320))


def test_flash_attention_3_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setattr("runner.engine.attention.fa3.find_spec", lambda name: None)
    reason = backend_class("fa3").supports(LONG.spec, torch.bfloat16, 16)
    assert reason is not None and "not installed" in reason


def test_each_device_has_its_default() -> None:
    assert default_backend(torch.device("cpu")) == "reference"
    assert default_backend(torch.device("cuda")) == "triton"


class _FakeFlashAttention(ModuleType):
    """The two functions that the adapter calls, by the definition of attention."""

    def flash_attn_with_kvcache(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **named: Any) -> Any:
        if "cu_seqlens_q" in named:
            starts = named["cu_seqlens_q"].tolist()
            queries = [query[a:b] for a, b in pairwise(starts)]
        else:
            queries = list(query)
        outs = []
        for index, rows in enumerate(queries):
            length = int(named["cache_seqlens"][index])
            blocks = named["page_table"][index][: -(-length // key.shape[1])].long()
            outs.append(
                self._attend(rows, key[blocks].flatten(0, 1)[:length], value[blocks].flatten(0, 1)[:length], named)
            )
        return torch.cat(outs) if "cu_seqlens_q" in named else torch.stack(outs)

    def flash_attn_varlen_func(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts_q: torch.Tensor,
        starts_k: torch.Tensor,
        longest_q: int,
        longest_k: int,
        **named: Any,
    ) -> Any:
        starts = starts_q.tolist()
        parts = [slice(a, b) for a, b in pairwise(starts)]
        return torch.cat([self._attend(query[part], key[part], value[part], named) for part in parts]), None

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, named: dict[str, Any]
    ) -> torch.Tensor:
        assert named["causal"]
        left, right = named["window_size"]
        assert (left, right) == (-1, -1) or right == 0
        spec = Case(heads=query.shape[1], kv_heads=key.shape[1], head_dim=query.shape[2]).spec
        spec = replace(spec, scale=named["softmax_scale"], window=left + 1, soft_cap=named["softcap"])
        return dense_attention(query, key, value, spec, None).to(query.dtype)


@pytest.mark.parametrize(
    "case",
    [
        Case(decode=(50, 3), prefill=((0, 20), (30, 5)), window=9, soft_cap=5.0, dtype=torch.float16),
        Case(decode=(50, 3), prefill=((0, 20), (0, 5)), dtype=torch.float16, padding_rows=1),
    ],
)
def test_flash_attention_3_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    pytest.importorskip("triton")
    monkeypatch.setitem(sys.modules, "flash_attn_interface", _FakeFlashAttention("flash_attn_interface"))
    monkeypatch.setattr("runner.engine.attention.fa3.find_spec", lambda name: object())
    step = make_step(case, DEVICE)
    out = attend(_load("fa3", case), case.spec, step)
    torch.testing.assert_close(out[step.live].double(), step.expected[step.live], rtol=1e-2, atol=1e-2)
