"""The plain job: the file's token ids, conversation or prompt as they are, and nothing read out of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.config import InputConfig
from runner.errors import ConfigError
from runner.types import Refused

_KEYS = ("prompt_column", "messages_column", "prompt_token_ids_column")
_BEFORE_TEXT = ("prompt_token_ids_column", "messages_column")


@dataclass(frozen=True, slots=True)
class Job:
    """Takes the first of ``before_text`` that a row has, else the text of ``prompt_column``."""

    prompt_column: str = InputConfig.prompt_column
    before_text: tuple[str, ...] = (InputConfig.prompt_token_ids_column, InputConfig.messages_column)

    @classmethod
    def from_config(cls, config: InputConfig) -> Job:
        """A column that the user named goes before all others, and no row has two such columns."""
        named = [key for key in _KEYS if getattr(config, key) != getattr(InputConfig, key)]
        if len(named) > 1:
            both = " and ".join(f"input.{key}={getattr(config, key)}" for key in named)
            raise ConfigError(f"{both} are both set; keep one of them")
        if named == ["prompt_column"]:
            return cls(config.prompt_column, ())
        keys = sorted(_BEFORE_TEXT, key=lambda key: key not in named)
        return cls(config.prompt_column, tuple(getattr(config, key) for key in keys))

    def prompt(self, row: dict[str, Any]) -> Any:
        for column in self.before_text:
            if row.get(column) is not None:
                return row[column]
        prompt = row.get(self.prompt_column)
        if isinstance(prompt, str):
            return prompt
        if prompt is not None:
            raise Refused(f"{self.prompt_column} is {self._kind(prompt)}", code="prompt_type")
        raise Refused(f"{self._column_of(row)} is null", code="prompt_null")

    def _kind(self, prompt: Any) -> str:
        if not isinstance(prompt, list):
            return f"{type(prompt).__name__}, not a string"
        key = "messages_column" if any(isinstance(item, dict) for item in prompt) else "prompt_token_ids_column"
        return f"list, not a string; input.{key}={self.prompt_column} takes it"

    def _column_of(self, row: dict[str, Any]) -> str:
        """One that the row has, be it null."""
        for column in (self.prompt_column, *self.before_text):
            if column in row:
                return column
        raise ConfigError(
            f"input.prompt_column={self.prompt_column}: the rows have {', '.join(row)}; "
            "name one of them, or set job.template"
        )
