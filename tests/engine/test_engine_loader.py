"""Weights arrive whole, in the right type, and random ones behave like a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import families, save_tiny_model, tiny_model

from runner.config import Dtype, LoadFormat, ModelSettings
from runner.engine.loader import load_model
from runner.errors import ConfigError
from runner.models import resolve_model

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 40)[None]


def load(settings: ModelSettings) -> torch.nn.Module:
    return load_model(resolve_model(settings), settings, CPU)


def test_loaded_model_equals_the_saved_one(tmp_path: Path) -> None:
    model = load(ModelSettings(path=str(save_tiny_model(tmp_path / "m"))))
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    assert torch.equal(model(TOKENS).logits, tiny_model("llama")(TOKENS).logits)


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_dtype(tmp_path: Path, dtype: str, expected: str) -> None:
    folder = save_tiny_model(tmp_path / "m", dtype="bfloat16")
    model = load(ModelSettings(path=str(folder), dtype=Dtype(dtype)))
    assert {p.dtype for p in model.parameters()} == {getattr(torch, expected)}


@pytest.mark.parametrize("family", families())
def test_random_weights_of_any_family(tmp_path: Path, family: str) -> None:
    """Only config.json is needed; buffers are the real model's, ties hold, logits are finite."""
    reference = tiny_model(family)
    reference.config.save_pretrained(tmp_path)
    model = load(ModelSettings(path=str(tmp_path), load_format=LoadFormat.dummy))
    buffers = dict(model.named_buffers())
    for name, buffer in reference.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == reference.config.tie_word_embeddings
    assert 0.01 < model.get_input_embeddings().weight.std() < 0.03
    logits = model(TOKENS).logits
    assert logits.isfinite().all() and logits.std() > 0


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 of .*model\.layers\.1\.mlp\.up_proj\.weight"):
        load(ModelSettings(path=str(folder)))


def test_shapes_that_disagree_with_the_config(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(ModelSettings(path=str(folder)))


def test_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ConfigError, match="no_such_model") as caught:
        load(ModelSettings(path=str(tmp_path), load_format=LoadFormat.dummy))
    assert "\n" not in str(caught.value)


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ConfigError, match="T5Config"):
        load(ModelSettings(path=str(tmp_path), load_format=LoadFormat.dummy))


def with_adapter(folder: Path) -> ModelSettings:
    """A saved model beside a hand-written LoRA adapter of rank 2 on the query projections."""
    adapter = folder / "adapter"
    adapter.mkdir()
    kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(kind))
    prefix = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    generator = torch.Generator().manual_seed(0)
    shapes = {"A": (2, 64), "B": (64, 2)}
    tensors = {prefix.format(i, ab): torch.randn(shapes[ab], generator=generator) for i in (0, 1) for ab in shapes}
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    return ModelSettings(path=str(save_tiny_model(folder / "m")), adapter=str(adapter))


def test_adapter_is_merged_into_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = with_adapter(tmp_path)
    merged = load(settings)
    lora = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for i, layer in enumerate(tiny_model("llama").model.layers):
        a, b = (lora[f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{ab}.weight"] for ab in "AB")
        expected = layer.self_attn.q_proj.weight + 4 / 2 * b @ a
        assert torch.allclose(merged.model.layers[i].self_attn.q_proj.weight, expected, atol=1e-5)
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert not any(p.requires_grad for p in merged.parameters())


def test_adapter_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"model\.adapter=.* needs peft"):
        load(with_adapter(tmp_path))
