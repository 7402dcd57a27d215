"""Converts one GGUF file to a model folder: ``python -m runner.models.convert FILE.gguf FOLDER``.

A process of its own, so that torch is never loaded into the process that resolves the model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}  # GGUF's word -> transformers'


def convert(gguf_file: Path, folder: Path) -> None:
    """Writes weights (float32, safetensors), tokenizer with chat template, and generation_config.json."""
    metadata = _tokenizer_metadata(gguf_file)
    eos_token_ids = sorted({metadata[key] for key in _EOS_KEYS if key in metadata})
    _save_model(gguf_file, folder, eos_token_ids, metadata)
    _save_tokenizer(gguf_file, folder, metadata)


def _tokenizer_metadata(gguf_file: Path) -> dict[str, Any]:
    """The scalar ``tokenizer.*`` values of the file, by their last word: the ground truth for special tokens."""
    from gguf import GGUFReader, GGUFValueType

    prefix = "tokenizer."
    fields = GGUFReader(gguf_file).fields
    return {
        name.rsplit(".", 1)[-1]: field.contents()
        for name, field in fields.items()
        if name.startswith(prefix) and field.types and field.types[0] != GGUFValueType.ARRAY
    }


def _save_model(gguf_file: Path, folder: Path, eos_token_ids: list[int], metadata: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    # The loader leaves marks of the quantised file on the plain float model, and saving refuses them.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    model.generation_config._from_model_config = False  # else generate() may override it from config.json
    if eos_token_ids:
        model.generation_config.eos_token_id = eos_token_ids[0] if len(eos_token_ids) == 1 else eos_token_ids
    for name in ("bos", "padding"):
        if (token_id := metadata.get(f"{name}_token_id")) is not None:
            setattr(model.generation_config, f"{_SPECIAL_TOKENS[name]}_token_id", token_id)
    model.save_pretrained(folder)


def _save_tokenizer(gguf_file: Path, folder: Path, metadata: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    # transformers' reader guesses special tokens by their text, and differs between releases; the file knows.
    for name, attribute in _SPECIAL_TOKENS.items():
        if (token_id := metadata.get(f"{name}_token_id")) is not None:
            setattr(tokenizer, f"{attribute}_token", tokenizer.convert_ids_to_tokens(token_id))
    if metadata.get("pre") == "smollm":
        _split_digits(tokenizer)
    tokenizer.clean_up_tokenization_spaces = False  # never applied to BPE, but warned about
    tokenizer.chat_template = metadata.get("chat_template", tokenizer.chat_template)
    tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: Any) -> None:
    """SmolLM cuts at every digit before anything else, which transformers' reader leaves out."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
