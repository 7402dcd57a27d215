"""The plain job: the file's conversation or prompt as it is, and nothing read out of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.config import InputConfig
from runner.errors import ConfigError
from runner.types import Refused


@dataclass(frozen=True, slots=True)
class Job:
    """Takes the prompt column that the user named; else the messages column where a row has one, else `prompt`."""

    prompt_column: str = "prompt"
    messages_column: str = "messages"

    @classmethod
    def from_config(cls, config: InputConfig) -> Job:
        if config.prompt_column != InputConfig.prompt_column and config.messages_column != InputConfig.messages_column:
            raise ConfigError(
                f"input.prompt_column={config.prompt_column} and input.messages_column={config.messages_column} "
                "are both set; keep one of them"
            )
        return cls(config.prompt_column, config.messages_column)

    def prompt(self, row: dict[str, Any]) -> Any:
        messages, prompt = row.get(self.messages_column), row.get(self.prompt_column)
        if messages is not None and self.prompt_column == InputConfig.prompt_column:
            return messages
        if isinstance(prompt, str):
            return prompt
        if prompt is not None:
            raise Refused(f"{self.prompt_column} is {type(prompt).__name__}, not a string", code="prompt_type")
        self._require_a_column(row)
        raise Refused(f"{self.prompt_column} is null", code="prompt_null")

    def _require_a_column(self, row: dict[str, Any]) -> None:
        if self.prompt_column not in row and self.messages_column not in row:
            raise ConfigError(
                f"input.prompt_column={self.prompt_column}: the rows have {', '.join(row)}; "
                "name one of them, or set job.template"
            )
