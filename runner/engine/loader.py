"""Loads a resolved model's weights, straight onto the device, in eval mode and without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from runner.config import Dtype, LoadFormat, ModelSettings
from runner.errors import ConfigError
from runner.models import ModelFiles


def load_model(files: ModelFiles, settings: ModelSettings, device: torch.device) -> PreTrainedModel:
    """The causal language model of ``files`` with its weights on ``device``.

    ``settings.dtype`` auto is float32 on a CPU and the checkpoint's own elsewhere. Raises ConfigError when
    transformers cannot load it, when the checkpoint lacks weights, or when it does not fit on the device.
    """
    with _quiet(), _refusals(settings, device):
        config = AutoConfig.from_pretrained(
            files.folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
        if settings.load_format is LoadFormat.dummy:
            model = _random_model(config, settings, device)
        else:
            model = _checkpoint_model(config, files.folder, settings, device)
        if files.adapter is not None:
            model = _merge_adapter(model, files.adapter, settings)
    return model.eval().requires_grad_(False)


def _checkpoint_model(config: Any, folder: Path, settings: ModelSettings, device: torch.device) -> PreTrainedModel:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=_dtype(settings.dtype, device) or "auto",
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code,
        output_loading_info=True,
    )
    # transformers fills what a checkpoint lacks with random numbers and only logs it.
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ConfigError(
            f"model.path={settings.path}: the checkpoint lacks {len(missing)} of the model's weights, the first "
            f"{missing[0]}; give a complete causal language model"
        )
    return model


def _random_model(config: Any, settings: ModelSettings, device: torch.device) -> PreTrainedModel:
    """Random weights in the checkpoint's shapes, drawn on the device.

    Loading an empty checkpoint makes transformers initialise everything on the device itself: matrices from
    N(0, initializer_range), norms and biases neutral, rotary buffers computed, tied embeddings tied.
    """
    dtype = _dtype(settings.dtype, device) or config.get_text_config().dtype or torch.bfloat16
    with torch.device("meta"):
        model_class = type(AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code))
    return model_class.from_pretrained(None, config=config, state_dict={}, dtype=dtype, device_map={"": device})


def _merge_adapter(model: PreTrainedModel, adapter: Path, settings: ModelSettings) -> PreTrainedModel:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ConfigError(
            f"model.adapter={settings.adapter} needs peft, which is not installed: pip install 'batch-runner[adapter]'"
        ) from error
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)


def _dtype(dtype: Dtype, device: torch.device) -> torch.dtype | None:
    """None is the checkpoint's own."""
    if dtype is not Dtype.auto:
        return getattr(torch, dtype.value)
    return torch.float32 if device.type == "cpu" else None


@contextmanager
def _refusals(settings: ModelSettings, device: torch.device) -> Iterator[None]:
    """Whatever keeps a model from loading is the user's to fix, and says so in a line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"model.path={settings.path}: the weights do not fit on {device}; set model.dtype=bfloat16 or choose a "
            "smaller model"
        ) from error
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"model.path={settings.path} cannot be loaded: {lines[0]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no load report: what matters of it is checked here."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
