"""Rows to requests: the prompt of each row as text and ids, with its sampling parameters."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config import InputConfig, JobConfig
from runner.errors import ConfigError, RunnerError, told
from runner.input.conversation import (
    BATCH_COLUMNS,
    Ask,
    PromptError,
    as_list,
    as_object,
    ask_of_batch_line,
    checked_messages,
)
from runner.input.drafts import Draft, fill_ids, fit
from runner.input.template import TemplateError, load_template
from runner.input.token_ids import checked_ids, ids_of_column
from runner.text import ChatError, as_in_source, override_sampling, resolve_tokens
from runner.text.interface import PromptTokenizer
from runner.types import Job, Refused, Request, RowError, SamplingParams, SourceRow, Stage

log = logging.getLogger(__name__)

_OF_A_RUN = ("row_id", "request_index", "sample_index")
TOOLS_COLUMN = "tools"


@dataclass(slots=True)
class RenderCounts:
    """What rendering accepted but a user may want to know; rows for ``dropped``, else requests."""

    requests: int = 0
    dropped: int = 0
    empty_prompts: int = 0
    truncated: int = 0
    clamped: int = 0  # max_tokens was lowered so that prompt and answer fit max_model_len


class Renderer:
    """Renders batches of rows.

    The prompt comes from ``job.template`` where one is set; else, for the plain job over OpenAI batch lines, from
    their bodies; else from ``job.prompt(row)``.
    """

    def __init__(
        self,
        job: Job,
        tokenizer: PromptTokenizer,
        job_config: JobConfig,
        input_config: InputConfig,
        sampling: SamplingParams,
        max_model_len: int | None,
        columns: Sequence[str],
    ) -> None:
        """``columns`` are the input's; raises ConfigError when the template or the settings do not suit them."""
        _warn_of_carried_sampling(input_config, columns)
        self.counts = RenderCounts()
        self._job = job
        self._tokenizer = tokenizer
        self._config = job_config
        self._messages_column = input_config.messages_column
        self._ids_column = input_config.prompt_token_ids_column
        self._sampling_column = input_config.sampling_column
        self._sampling = sampling
        self._plain_sampling = resolve_tokens(sampling, tokenizer)
        self._max_model_len = max_model_len
        self._template = load_template(job_config, columns)
        self._ask = self._choose_ask(columns)
        self._chat = job_config.chat and tokenizer.has_chat_template
        if job_config.system_prompt is not None and not self._chat:
            why = "job.chat=false" if not job_config.chat else "the model has no chat template"
            raise ConfigError(f"job.system_prompt is set but {why}; remove it or put its text into the prompts")

    def render(self, rows: Sequence[SourceRow]) -> list[list[Request | RowError]]:
        """One list a row: its requests, or the error that stands for the row or one of its requests.

        An empty list means that the job dropped the row.
        """
        drafted = [list(self._drafts(row)) for row in rows]
        fill_ids([item for items in drafted for item in items if isinstance(item, Draft)], self._tokenizer)
        self.counts.dropped += drafted.count([])
        return [[self._finish(row, item) for item in items] for row, items in zip(rows, drafted, strict=True)]

    def _choose_ask(self, columns: Sequence[str]) -> Callable[[dict[str, Any]], Ask]:
        if self._template is not None:
            template = self._template
            return lambda row: Ask(template.render(row))
        if self._config.module is None and self._config.kind == "generate" and set(columns) >= BATCH_COLUMNS:
            return ask_of_batch_line
        return lambda row: Ask(self._job.prompt(row))

    def _drafts(self, row: SourceRow) -> Iterator[Draft | RowError]:
        try:
            ask, sampling = self._asked(row.values)
        except (PromptError, TemplateError, Refused) as error:
            yield self._error(row, Stage.RENDER, error.code, str(error), num_samples=self._sampling.n)
            return
        for index, prompt in enumerate(_prompts(ask.prompt)):
            try:
                yield self._draft(index, prompt, sampling, ask)
            except PromptError as error:
                yield self._error(row, Stage.RENDER, error.code, str(error), index, sampling.n)

    def _asked(self, row_values: dict[str, Any]) -> tuple[Ask, SamplingParams]:
        row_values = as_in_source(row_values)
        values = copy.deepcopy(row_values)  # what a job does to its row must not reach the output
        try:
            ask = self._ask(values)
        except (PromptError, TemplateError, Refused, RunnerError):
            raise
        except Exception as error:
            raise PromptError("job_failed", f"prompt(row) raised {told(error)}") from error
        if self._template is None and ask.prompt is not None:
            self._read_as_its_column(ask, values)
        return ask, self._sampled(ask, row_values)

    def _read_as_its_column(self, ask: Ask, values: dict[str, Any]) -> None:
        """Ids and conversations may be JSON text in their columns; tools stand beside a conversation."""
        if ask.prompt is values.get(self._ids_column):
            ask.prompt = ids_of_column(ask.prompt, self._ids_column)
        elif ask.prompt is values.get(self._messages_column):
            ask.prompt = as_list(ask.prompt, self._messages_column)
            if values.get(TOOLS_COLUMN):
                ask.template_kwargs.setdefault("tools", as_list(values[TOOLS_COLUMN], TOOLS_COLUMN))

    def _sampled(self, ask: Ask, values: dict[str, Any]) -> SamplingParams:
        """The job's sampling, under the batch line's options, under the row's own; as the engine takes it."""
        try:
            sampling = override_sampling(self._sampling, ask.sampling, "body.")
            column = self._sampling_column
            if column is not None and values.get(column) is not None:
                sampling = override_sampling(sampling, as_object(values[column], column), f"{column}.")
            if sampling is self._sampling:
                return self._plain_sampling
            return resolve_tokens(sampling, self._tokenizer, f"{column}." if not ask.sampling else "body.")
        except ConfigError as error:
            raise PromptError("bad_sampling", str(error)) from None

    def _draft(self, index: int, prompt: Any, sampling: SamplingParams, ask: Ask) -> Draft:
        if isinstance(prompt, str):
            self.counts.empty_prompts += not prompt
            if ask.raw or not self._chat:
                self._refuse_system_prompt("a text completion")
                return Draft(index, sampling, text=prompt)
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, list):
            raise PromptError("prompt_type", f"the prompt is {type(prompt).__name__}, not text, messages or ids")
        if prompt and all(type(token) is int for token in prompt):
            self._refuse_system_prompt("a prompt of token ids")
            return Draft(index, sampling, ids=checked_ids(prompt, self._tokenizer.num_tokens))
        messages = checked_messages(prompt, self._config.system_prompt)
        if not self._chat:
            why = "the model has no chat template" if self._config.chat else "job.chat=false"
            raise PromptError("no_chat_template", f"the row holds messages but {why}")
        kwargs = {**self._config.chat_template_kwargs, **ask.template_kwargs}
        if kwargs.get("tools") and not self._tokenizer.reads_tools:
            raise PromptError("no_tools", "the row brings tools but the model's chat template has no place for them")
        try:
            chat = self._tokenizer.render_chat(messages, **kwargs)
        except ChatError as error:
            raise PromptError("chat_template", str(error)) from None
        return Draft(index, sampling, chat=chat, messages=messages)

    def _refuse_system_prompt(self, what: str) -> None:
        if self._config.system_prompt is not None:
            raise PromptError("system_prompt", f"job.system_prompt is set but has no place in {what}; put it in there")

    def _finish(self, row: SourceRow, item: Draft | RowError) -> Request | RowError:
        if isinstance(item, RowError):
            return item
        samples = item.sampling.n
        if item.failure:
            return self._error(row, Stage.TOKENIZE, "tokenizer_failed", item.failure, item.index, samples)
        if not item.ids:
            return self._error(row, Stage.TOKENIZE, "no_tokens", "the prompt has no tokens", item.index, samples)
        fitted = fit(item.ids, item.sampling, self._max_model_len, self._config.truncate_prompt)
        if fitted is None:
            message = (
                f"the prompt has {len(item.ids)} tokens; max_model_len={self._max_model_len} leaves no room for an "
                f"answer (job.truncate_prompt=true cuts it)"
            )
            return self._error(row, Stage.TOKENIZE, "prompt_too_long", message, item.index, samples)
        self.counts.requests += 1
        self.counts.truncated += fitted.truncated
        self.counts.clamped += fitted.clamped
        prompt = item.prompt
        if prompt is None:
            prompt = self._tokenizer.decode(item.ids, skip_special_tokens=False)
        return Request(row.row_id, item.index, fitted.ids, fitted.sampling, prompt, item.messages, fitted.truncated)

    def _error(
        self, row: SourceRow, stage: Stage, code: str, message: str, index: int | None = None, num_samples: int = 1
    ) -> RowError:
        return RowError(
            row.row_id,
            stage,
            code,
            message,
            file=row.file,
            line=row.line,
            source=row.values,
            request_index=index,
            num_samples=num_samples,
        )


def refuse_absent(config: InputConfig, columns: Sequence[str]) -> None:
    """Raises ConfigError for a column that was named and is not there; those of the default names need not be.

    Input without rows has none.
    """
    for key, name, usual in (
        ("prompt_column", config.prompt_column, InputConfig.prompt_column),
        ("messages_column", config.messages_column, InputConfig.messages_column),
        ("prompt_token_ids_column", config.prompt_token_ids_column, InputConfig.prompt_token_ids_column),
        ("sampling_column", config.sampling_column, InputConfig.sampling_column),
    ):
        if columns and name not in (None, usual, *columns):
            raise ConfigError(f"input.{key}={name}: no such column; there are {', '.join(columns)}")


def _warn_of_carried_sampling(config: InputConfig, columns: Sequence[str]) -> None:
    """A run's output carries the column that governed that run; it governs this one too, unless a setting says so."""
    usual = InputConfig.sampling_column
    if config.sampling_column == usual and usual in columns and _is_of_a_run(columns):
        log.warning(
            "the input is a run's output, and its column %s sets the sampling of each row here too; "
            "input.sampling_column=null takes this run's settings instead",
            usual,
        )


def _is_of_a_run(columns: Sequence[str]) -> bool:
    """Whether a run has written the columns, with a prefix or without."""
    last = _OF_A_RUN[0]
    prefixes = [name.removesuffix(last) for name in columns if name.endswith(last)]
    return any({prefix + name for name in _OF_A_RUN} <= set(columns) for prefix in prefixes)


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a row: none when the job drops it, several when it splits it."""
    if prompt is None:
        return []
    return prompt if is_split(prompt) else [prompt]


def is_split(prompt: Any) -> bool:
    """A list is several prompts unless it is one conversation or one list of ids."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
