"""Accepts a model only when a forward proves that the engine computes what the model means.

Three short sequences, packed into one row while our hook records every layer, must give the logits that the
model's own attention gives each of them alone. The row is shuffled: whatever depends on a token's place in it
instead of its position, or leaks from one token to the next, shows at once. The windows of real checkpoints are
longer than such sequences, so what each layer passes is also compared with what the configuration announces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from runner.engine.attention.metadata import AttentionSpec
from runner.engine.hook import IMPLEMENTATION, LayerAttention, attach, detach, select_paged
from runner.engine.rotary import freeze_rotary
from runner.errors import ConfigError

_LENGTHS = (7, 1, 40)  # tokens; the last is longer than the windows of our tests' models
_TOTAL = sum(_LENGTHS)
_ORDER = [29 * place % _TOTAL for place in range(_TOTAL)]  # row -> place in the sequences laid end to end
_KEPT = list(range(0, _TOTAL, 2))  # rows whose logits are asked for and compared
_MAX_ERROR = 1e-3  # float32, every position; rounding gives 1e-6, a wrong mask or scale 0.1 and more
_MAX_HALF_ERROR = 0.15  # 16-bit types, the median position: rounding may send some tokens to other experts
_INDEX = "paged_index"  # on each attention module of a probed model: its place in the forward
_SERVED_LAYER_TYPES = {"full_attention", "sliding_attention"}
FORWARD_ERRORS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def probe(model: PreTrainedModel, max_model_len: int) -> list[AttentionSpec]:
    """What each attention layer computes, in the order of the forward. The model is left for `bind` to complete.

    ``max_model_len`` (tokens) freezes longrope. Raises ConfigError, naming the architecture and the reason, when the
    model cannot be served exactly.
    """
    refuse_unserved(model)
    try:
        freeze_rotary(model, max_model_len)
        with torch.inference_mode():
            return _prove(model)
    except torch.OutOfMemoryError:
        raise
    except (ConfigError, *FORWARD_ERRORS) as error:
        raise _refusal(model, error) from error


def refuse_unserved(model: PreTrainedModel) -> None:
    """Raises ConfigError, as `probe` does, for what the configuration alone gives away."""
    try:
        _check_kind(model)
    except ConfigError as error:
        raise _refusal(model, error) from error


def bind(model: PreTrainedModel, make_layer: Callable[[int], LayerAttention]) -> None:
    """Gives each attention layer of a probed model the object that computes it, by its index in the forward.

    May be called again, for instance with a larger cache.
    """
    for module in model.modules():
        index = getattr(module, _INDEX, None)
        if index is not None:
            attach(module, make_layer(index))


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The modules around the attention modules of a probed model, in the order of the model."""
    paths = [path for path, module in model.named_modules() if hasattr(module, _INDEX)]
    return [model.get_submodule(path.rpartition(".")[0]) for path in paths]


def _refusal(model: PreTrainedModel, error: Exception) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"model.path: {type(model).__name__} cannot be served: {reason}; choose a decoder-only transformer"
    )


def _check_kind(model: PreTrainedModel) -> None:
    if model.config.is_encoder_decoder:
        raise ConfigError("it is an encoder-decoder")
    if getattr(model, "_is_stateful", False):
        raise ConfigError("it carries a recurrent state from token to token")
    unserved = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _SERVED_LAYER_TYPES
    if unserved:
        raise ConfigError(f"it has layers of type {', '.join(sorted(unserved))}")


def _prove(model: PreTrainedModel) -> list[AttentionSpec]:
    sequences = _token_ids(model)
    select_paged(model)
    _check_implementation(model)
    with _recorders(model) as calls:
        packed = _packed_logits(model, sequences)
    _check_layers(model, calls)
    _check_logits(packed, _own_logits(model, sequences), model.dtype)
    for index, call in enumerate(calls):
        setattr(call.module, _INDEX, index)
    return [call.spec for call in calls]


def _token_ids(model: PreTrainedModel) -> list[Tensor]:
    """Sequences [1, n] of scattered ids."""
    ids = (torch.arange(_TOTAL) * 7919 + 17) % (model.config.get_text_config().vocab_size - 3) + 3
    return [part[None].to(model.device) for part in ids.split(_LENGTHS)]


def _check_implementation(model: PreTrainedModel) -> None:
    """set_attn_implementation only logs when a model has attention code of its own."""
    if model.config.get_text_config()._attn_implementation != IMPLEMENTATION:
        raise ConfigError("its attention is code of its own, out of reach of transformers' attention interface")


def _packed_logits(model: PreTrainedModel, sequences: list[Tensor]) -> Tensor:
    """The logits [len(_KEPT), vocabulary] of the packed sequences, asked for by index as the engine does."""
    order, kept = (torch.tensor(rows, device=model.device) for rows in (_ORDER, _KEPT))
    positions = torch.cat([torch.arange(n, device=model.device) for n in _LENGTHS])[None, order]
    tokens = torch.cat(sequences, dim=1)[:, order]
    output = model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=kept)
    if output.logits.shape[1] != len(_KEPT):
        raise ConfigError("its head does not take the positions to compute (logits_to_keep)")
    return output.logits[0].float()


def _own_logits(model: PreTrainedModel, sequences: list[Tensor]) -> Tensor:
    """The same logits from each sequence alone, by the model's own attention and masks."""
    model.set_attn_implementation("eager")
    try:
        logits = torch.cat([model(input_ids=ids, use_cache=False).logits[0].float() for ids in sequences])
    finally:
        select_paged(model)
    return logits[[_ORDER[row] for row in _KEPT]]


def _check_layers(model: PreTrainedModel, calls: list[_Call]) -> None:
    config = model.config.get_text_config()
    if len({id(call.module) for call in calls}) != len(calls) or len(calls) != config.num_hidden_layers:
        raise ConfigError(f"{len(calls)} attention calls were seen for {config.num_hidden_layers} layers")
    for index, (call, window) in enumerate(zip(calls, _announced_windows(config), strict=True)):
        if getattr(call.module, "layer_idx", index) != index:
            raise ConfigError("its layers do not run in order")
        if not getattr(call.module, "is_causal", True):
            raise ConfigError(f"layer {index} sees tokens that come later")
        if call.dtype != model.dtype:
            raise ConfigError(f"layer {index} has {call.dtype} keys in a {model.dtype} model")
        if call.spec.window != window:
            raise ConfigError(
                f"layer {index} passes a window of {call.spec.window} tokens where its configuration says {window} "
                "(0 is none); the rest would be lost with the mask"
            )


def _announced_windows(config: Any) -> list[int]:
    """The window of each layer in tokens, 0 for none, by the model's configuration."""
    window = getattr(config, "sliding_window", None) or 0
    if getattr(config, "use_sliding_window", True) is False:
        window = 0
    default = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    layer_types = getattr(config, "layer_types", None) or default
    return [window if kind == "sliding_attention" else 0 for kind in layer_types]


def logits_errors(logits: Tensor, own: Tensor) -> Tensor:
    """[N]: how far [N, vocabulary] logits are from a model's own at each position, relative to the spread of these."""
    return (logits - own).norm(dim=-1) / (own - own.mean(dim=-1, keepdim=True)).norm(dim=-1)


def error_limit(dtype: torch.dtype) -> float:
    """Of `logits_errors`."""
    return _MAX_ERROR if dtype == torch.float32 else _MAX_HALF_ERROR


def _check_logits(packed: Tensor, own: Tensor, dtype: torch.dtype) -> None:
    errors = logits_errors(packed, own)
    error = errors.max() if dtype == torch.float32 else errors.median()
    if not error <= error_limit(dtype):  # not <=: a NaN fails too
        raise ConfigError(f"packed sequences gave other logits than each alone (relative error {error:.2g})")


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of our attention function."""

    module: nn.Module
    spec: AttentionSpec
    dtype: torch.dtype  # of the keys


@contextmanager
def _recorders(model: PreTrainedModel) -> Iterator[list[_Call]]:
    """Every module gets a recorder, since only the forward tells which of them attend."""
    calls: list[_Call] = []
    for module in model.modules():
        attach(module, _Recorder(module, calls))
    try:
        yield calls
    finally:
        for module in model.modules():
            detach(module)


class _Recorder:
    """Notes what one module asks for, and answers with dense attention within each packed sequence."""

    def __init__(self, module: nn.Module, calls: list[_Call]) -> None:
        self._module = module
        self._calls = calls

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        head_dim = query.shape[-1]
        spec = AttentionSpec(
            num_heads=query.shape[1],
            num_kv_heads=key.shape[1],
            head_dim=head_dim,
            value_dim=value.shape[-1],
            scale=float(scaling) if scaling is not None else head_dim**-0.5,
            window=sliding_window or 0,
            soft_cap=float(softcap or 0.0),
            sinks=sinks is not None,
        )
        self._calls.append(_Call(self._module, spec, key.dtype))
        return _dense_attention(query[0], key[0], value[0], spec, sinks)[None].to(query.dtype)


def _dense_attention(query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """query [H, T, D], key [KVH, T, D], value [KVH, T, Dv] -> [T, H, Dv] in float32; the plainest form there is."""
    key, value = (x.float().repeat_interleave(spec.group, dim=0) for x in (key, value))
    scores = query.float() @ key.transpose(1, 2) * spec.scale
    if spec.soft_cap:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    scores = scores.masked_fill(~_visible(spec.window).to(scores.device), -torch.inf)
    if sinks is not None:
        sink = sinks.float().reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[1]]
    return (weights @ value).transpose(0, 1)


def _visible(window: int) -> Tensor:
    """[T, T]: whether a query (row) sees a key: of its own sequence, not later, within the window."""
    sequence = torch.repeat_interleave(torch.arange(len(_LENGTHS)), torch.tensor(_LENGTHS))[_ORDER]
    place = torch.tensor(_ORDER)
    distance = place[:, None] - place[None, :]
    return (sequence[:, None] == sequence[None, :]) & (distance >= 0) & (distance < (window or _TOTAL))
