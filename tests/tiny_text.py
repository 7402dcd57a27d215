"""A tiny tokenizer saved as a folder: bytes and a few merges, special tokens, a BOS, a chat template."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|bos|>", "<|im_start|>", "<|im_end|>")
ADDED_TOKENS = ("<|tool|>", "</think>")  # not flagged as special; the template writes the first

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'developer' %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if message['role'] == 'tool' %}<|tool|>{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if no_thinking %}</think>{% endif %}{% endif %}"
)
STRIPPING_TEMPLATE = CHAT_TEMPLATE.replace("message['content'] }}", "message['content'] | trim }}")


def save_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Byte-level BPE: every text can be encoded and decoded, whatever the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["the stop string of the answer, the end of the text"] * 4, trainer)
    tokenizer.add_tokens(list(ADDED_TOKENS))
    bos = tokenizer.token_to_id("<|bos|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", bos)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = chat_template
    wrapped.save_pretrained(folder)
    return folder
