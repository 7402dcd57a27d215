"""Secrets by their look: values that are tokens, keys or private keys, whatever setting they stand in.

Only shapes that their issuers give to nothing else count, at their full length. What merely begins like one is none
(a path such as sk-learn-regressor), and neither is a placeholder (AKIAIOSFODNN7EXAMPLE, hf_xxxxxxxx...).
"""

from __future__ import annotations

import re

_KEYS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:hf|api_org)_[A-Za-z0-9]{33,}                         # Hugging Face
      | sk-(?:proj|svcacct|admin|ant|or|lf)-[A-Za-z0-9_-]{32,}  # OpenAI, Anthropic, OpenRouter, Langfuse
      | sk-[A-Za-z0-9]{32,}                                     # OpenAI, older
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])                # AWS
      | gh[opsur]_[A-Za-z0-9]{36,} | github_pat_\w{40,}         # GitHub
      | glpat-[A-Za-z0-9_-]{20,}                                # GitLab
      | AIza[A-Za-z0-9_-]{35}                                   # Google
      | xox[abeoprs]-[A-Za-z0-9-]{20,}                          # Slack
    )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_KEY_MATERIAL = re.compile(r"(?:\s|\\n)*[A-Za-z0-9+/=]{32}")
_FEWEST_CHARACTERS = 8  # different ones, in a key of chance

TEXTS = frozenset({"job.template", "job.system_prompt", "sampling.stop", "sampling.bad_words"})
"""Settings that hold text for the model: the first line of a private key, without the key, may be meant there."""


def holds_secret(text: str, setting: str = "") -> bool:
    """Whether some part of a setting's value looks like a real key."""
    if any(not _is_placeholder(found[0]) for found in _KEYS.finditer(text)):
        return True
    heads = _PRIVATE_KEY.finditer(text)
    return any(setting not in TEXTS or _KEY_MATERIAL.match(text, head.end()) for head in heads)


def _is_placeholder(text: str) -> bool:
    _, _, body = text.replace("-", "_").partition("_")
    return "EXAMPLE" in text.upper() or len(set(body or text)) < _FEWEST_CHARACTERS
