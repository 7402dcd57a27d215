"""Puts an engine together: device, model, proof that it can be served, cache, runner, scheduler."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import MappingProxyType

import torch
from transformers import PreTrainedModel

from runner.config import Device as DeviceChoice
from runner.config import EngineConfig
from runner.engine import last_layer, shared_reads
from runner.engine.attention import (
    AttentionBackend,
    AttentionSpec,
    allocate_cache,
    default_backend,
    load_backend,
)
from runner.engine.compiled import OpaqueLayer, compile_layers
from runner.engine.core import EngineCore
from runner.engine.device import Device, open_device
from runner.engine.fuse import fuse_linears
from runner.engine.graph_sizes import candidate_sizes, linear_costs, sizes_worth_a_graph
from runner.engine.hook import LayerAttention
from runner.engine.layers import PagedLayer, StepContext
from runner.engine.linear.packed import pack_linears
from runner.engine.linear.wide import replace_wide_linears
from runner.engine.loader import load_model
from runner.engine.memory import block_bytes, cpu_blocks, cuda_blocks, first_step
from runner.engine.model_runner import ModelRunner
from runner.engine.probe import bind, decoder_layers, probe, refuse_unserved
from runner.engine.rehearsal import Rehearsal, call_products, kernel_calls, linear_calls, prompt_sizes
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.engine.settings import EngineSettings
from runner.engine.warm_up import warm_up
from runner.errors import ConfigError

log = logging.getLogger(__name__)

_HOPPER = 9, 0
# Most tokens of a step. A GPU's host launches a step of any size in the same time; a CPU's stop waits for its step.
_MAX_TOKENS = MappingProxyType({"cuda": 16384, "cpu": 8192})


def build_core(settings: EngineSettings, device: Device | None = None) -> EngineCore:
    """Loads the model and returns an engine that is ready to step. Raises ConfigError for what it cannot serve.

    ``device`` is used in place of the one that the settings choose.
    """
    device = device or choose_device(settings.model.device)
    model = load_model(settings.files, settings.model, device.torch_device)
    return core_over(
        model, settings.engine, device, eos_ids=settings.files.eos_token_ids, context=settings.files.context_length
    )


def core_over(
    model: PreTrainedModel, engine: EngineConfig, device: Device, eos_ids: tuple[int, ...], context: int | None
) -> EngineCore:
    """An engine over a loaded model. ``context`` is the longest sequence that the model was made for, if known."""
    refuse_unserved(model)  # before its length: no setting helps a model that cannot be served
    target = device.torch_device
    max_model_len = _max_model_len(engine, context)
    accelerated = target.type == "cuda" and not engine.enforce_eager
    _replace_linears(model, target, accelerated)
    specs = _proven(model, max_model_len, accelerated)
    step, kind = StepContext(), default_backend(target)
    backend = load_backend(
        kind, specs, engine.max_num_seqs, target, model.dtype, engine.block_size, engine.deterministic
    )
    last_layer.install(model, step, backend.plan)
    compiled = accelerated and engine.compile
    if compiled:
        compile_layers(decoder_layers(model))  # the work is done in the first step below, before any row waits for it
    config = SchedulerConfig(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens or _MAX_TOKENS[target.type],
        max_model_len=max_model_len,
        block_size=engine.block_size,
        num_blocks=1,
        overlap_prefill=_may_overlap(target, engine),
        share_reads=_may_share_reads(target, engine),
        deterministic=engine.deterministic,
        eos_ids=eos_ids,
    )
    if target.type == "cuda":  # on a CPU nothing is compiled or loaded
        _bind_cache(model, specs, backend, step, config, compiled)
        _rehearse(model, backend, step, config, device)
    num_blocks = engine.num_kv_blocks or _num_blocks(model, specs, backend, step, config, engine)
    config = replace(config, num_blocks=num_blocks)
    _check_cache(config)
    # One more than the scheduler knows: padding rows write to it.
    _bind_cache(model, specs, backend, step, replace(config, num_blocks=num_blocks + 1), compiled)
    step.finishes_alone = last_layer.agrees(model, backend, step, config)
    graph_sizes = _graph_sizes(model, engine, device) if accelerated else ()
    runner = ModelRunner(model, backend, step, device, config, eos_ids, _vocab_size(model), graph_sizes)
    if target.type == "cuda":
        warm_up(runner, config)
    scheduler = Scheduler(config)
    scheduler.stats.device = torch.cuda.get_device_name(target) if target.type == "cuda" else ""
    return EngineCore(scheduler, runner, engine.async_batching, engine.enable_prefix_caching)


def _proven(model: PreTrainedModel, max_model_len: int, accelerated: bool) -> list[AttentionSpec]:
    """As `probe`, which calls most kernels of wide linears, one after the other: they are compiled at once."""
    with Rehearsal() as rehearsal:
        if accelerated:
            rehearsal.start(linear_calls([model]))
        return probe(model, max_model_len)


def _vocab_size(model: PreTrainedModel) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


def _bind_cache(
    model: PreTrainedModel,
    specs: list[AttentionSpec],
    backend: AttentionBackend,
    step: StepContext,
    config: SchedulerConfig,
    compiled: bool,
) -> None:
    """Gives each layer a cache of ``config.num_blocks``; the one that it had is free once nothing runs on it."""

    def paged(index: int) -> LayerAttention:
        cache = allocate_cache(config.num_blocks, config.block_size, specs[index], backend.dtype, backend.device)
        layer = PagedLayer(specs[index], cache, backend, step)
        return OpaqueLayer(layer) if compiled else layer

    bind(model, paged)


def _rehearse(
    model: PreTrainedModel,
    backend: AttentionBackend,
    step: StepContext,
    config: SchedulerConfig,
    device: Device,
) -> None:
    """Has all compiled and loaded that the first rows need, but for the kernels of wide linears, which are already.

    With layers bound to any cache.
    """
    modules = [decoder_layers(model)[0], *filter(None, [model.get_output_embeddings()])]
    with Rehearsal() as rehearsal:
        rehearsal.start(kernel_calls(backend, config, _vocab_size(model)))
        first_step(model, backend, step, config)
    device.synchronize()
    call_products(modules, candidate_sizes(config.max_num_seqs))
    sizes = prompt_sizes(config.max_num_batched_tokens)
    call_products(modules[:1], sizes)
    if config.overlap_prefill:  # told to leave room, cuBLAS chooses other kernels
        with device.leaving_room():
            call_products(modules[:1], sizes)


def _num_blocks(
    model: PreTrainedModel,
    specs: list[AttentionSpec],
    backend: AttentionBackend,
    step: StepContext,
    config: SchedulerConfig,
    engine: EngineConfig,
) -> int:
    """What the memory holds, and no more than all sequences could use."""
    size = block_bytes(specs, config.block_size, model.dtype)
    if backend.device.type == "cpu":
        fitting = cpu_blocks(engine, size)
    else:
        fitting = cuda_blocks(model, backend, step, config, engine.gpu_memory_utilization, size)
    return min(config.max_num_seqs * config.max_blocks_per_sequence, fitting)


def _may_share_reads(target: torch.device, engine: EngineConfig) -> bool:
    """The backend of a CPU reads each row's beginning anyway.

    With ``deterministic`` a row's bits must not hang on the other rows.
    """
    few = engine.max_num_seqs < shared_reads.FEWEST_ROWS
    return target.type == "cuda" and not (engine.deterministic or few)


def _may_overlap(target: torch.device, engine: EngineConfig) -> bool:
    """Unasked where it was measured to gain: on the chip of an H100 or H200, with decode steps from graphs."""
    if engine.deterministic or not engine.async_batching or engine.overlap_prefill is False:
        return False
    if engine.overlap_prefill:
        return True
    graphs = target.type == "cuda" and not engine.enforce_eager
    return graphs and torch.cuda.get_device_capability(target) == _HOPPER


def _replace_linears(model: PreTrainedModel, target: torch.device, accelerated: bool) -> None:
    if accelerated:
        fuse_linears(model)
        replace_wide_linears(model)
    if target.type == "cpu":
        pack_linears(model)


def _graph_sizes(model: PreTrainedModel, engine: EngineConfig, device: Device) -> list[int]:
    if engine.deterministic:
        return [engine.max_num_seqs]
    costs: dict[int, float] = {}
    sizes, layers = candidate_sizes(engine.max_num_seqs), decoder_layers(model)
    device.compute.enqueue(lambda: costs.update(linear_costs(layers, sizes)))
    return sizes_worth_a_graph(costs)


def choose_device(choice: DeviceChoice) -> Device:
    """Raises ConfigError when CUDA is asked for and there is none."""
    if choice is DeviceChoice.auto:
        return open_device("cuda" if torch.cuda.is_available() else "cpu")
    if choice is DeviceChoice.cuda and not torch.cuda.is_available():
        raise ConfigError("model.device=cuda: torch sees no CUDA device; use model.device=auto or install a CUDA build")
    return open_device(str(choice.value))


def _check_cache(config: SchedulerConfig) -> None:
    """Memory is a matter of the machine and must not decide which rows fail: the longest allowed has to fit."""
    tokens = config.num_blocks * config.block_size
    if tokens < config.max_model_len:
        raise ConfigError(
            f"engine.max_model_len={config.max_model_len} is more than the {tokens} tokens that the KV cache holds; "
            "lower it, or give the cache more (engine.gpu_memory_utilization, engine.cpu_kv_cache_gib)"
        )


def _max_model_len(engine: EngineConfig, context: int | None) -> int:
    if engine.max_model_len is None:
        if context is None:
            raise ConfigError("engine.max_model_len: the model's config.json does not say how long it may get; set it")
        return context
    if context is not None and engine.max_model_len > context:
        raise ConfigError(f"engine.max_model_len={engine.max_model_len} is over the model's {context}; lower it")
    return engine.max_model_len
