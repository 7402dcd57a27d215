"""Text and ids: tokenizer, chat template, detokenizer, stop strings, sampling settings."""

from runner.text.byte_tokenizer import ByteTokenizer
from runner.text.chat import ChatError, RenderedChat
from runner.text.detokenizer import IncrementalDetokenizer, StopHit, StopMatcher
from runner.text.interface import PromptTokenizer
from runner.text.json_text import JsonText, as_in_source
from runner.text.reasoning import ReasoningMarks, reasoning_marks, split_reasoning
from runner.text.sampling import (
    checked_sampling,
    eos_token_ids,
    load_generation_config,
    override_sampling,
    resolve_sampling,
)
from runner.text.token_edits import resolve_tokens
from runner.text.tokenizer import TextTokenizer

__all__ = [
    "ByteTokenizer",
    "ChatError",
    "IncrementalDetokenizer",
    "JsonText",
    "PromptTokenizer",
    "ReasoningMarks",
    "RenderedChat",
    "StopHit",
    "StopMatcher",
    "TextTokenizer",
    "as_in_source",
    "checked_sampling",
    "eos_token_ids",
    "load_generation_config",
    "override_sampling",
    "reasoning_marks",
    "resolve_sampling",
    "resolve_tokens",
    "split_reasoning",
]
