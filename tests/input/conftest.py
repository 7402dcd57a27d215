"""The tiny tokenizer as a fixture."""

from __future__ import annotations

import pytest
from tiny_text import save_tokenizer

from runner.text import TextTokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))
