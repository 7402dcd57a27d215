"""The engine as a library, shaped like vLLM's ``LLM``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.engine.process import EngineProcess
from runner.engine.prompts import as_conversations, as_prompts, check_text
from runner.engine.settings import EngineSettings, checked_type, settings_of_keywords
from runner.errors import ConfigError
from runner.models import resolve_model
from runner.seeds import seed_of
from runner.text import ChatError, RenderedChat, StopMatcher, TextTokenizer, checked_sampling, resolve_tokens
from runner.types import EngineRequest, Message, Sample, SampleKey, SamplingParams

_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SampleOutput:
    """One sample of a prompt. ``finish_reason`` is stop, length, repetition or error; ``error`` says why.

    ``logprobs`` is set where SamplingParams asked: one record a token, see `runner.types.Logprobs`.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: int | str | None = None
    error: str | None = None
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A prompt and its ``n`` samples, in order."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[SampleOutput]


class Engine:
    """A model that is ready to generate, in a process of its own.

    ``model`` is a hub id, a folder, a .gguf file or an embedded model's name. ``dtype``, ``device``,
    ``load_format``, ``adapter`` and ``revision`` are those of `runner.config.ModelSettings`; all other keywords are
    fields of `runner.config.EngineConfig` (max_num_seqs, max_model_len, ...). Use it as a context manager, or call
    `close`. Any thread may make it and call it; a call waits until that of another thread is done.
    Raises ConfigError for a model or a setting that cannot be served, EngineError when the engine dies.
    """

    def __init__(self, model: str, *, seed: int = 0, **settings: Any) -> None:
        model_settings, engine_settings = settings_of_keywords(model, settings)
        self._seed = checked_type("seed", seed, int)
        files = resolve_model(model_settings)
        self.tokenizer = TextTokenizer(files.folder, trust_remote_code=model_settings.trust_remote_code)
        self._client = EngineProcess(EngineSettings(files, model_settings, engine_settings))
        self._next_id = 0
        self._turn = threading.Lock()

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str | Sequence[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Completes texts or token ids; one SamplingParams for all, or one each. Outputs come in the prompts' order.

        The same call gives the same draws again: where SamplingParams has no ``seed``, each prompt's is made of the
        engine's ``seed`` and the prompt's place in the call. Raises ConfigError for what is no prompt.
        """
        given = as_prompts(prompts)
        with self._turn:
            ids = [self.tokenizer.encode(p, special=True) if isinstance(p, str) else p for p in given]
            return self._run([p if isinstance(p, str) else None for p in given], ids, sampling_params)

    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        **template_kwargs: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the model's chat template; else as `generate`."""
        if not self.tokenizer.has_chat_template:
            raise ConfigError("chat: the model has no chat template; call generate with texts")
        given = as_conversations(conversations)
        with self._turn:
            rendered = [self._rendered(i, messages, template_kwargs) for i, messages in enumerate(given)]
            ids = self.tokenizer.encode_rendered(rendered)
            return self._run([chat.text for chat in rendered], ids, sampling_params)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(
        self,
        texts: list[str | None],
        prompts: list[list[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[RequestOutput]:
        each = self._each(SamplingParams() if sampling_params is None else sampling_params, len(prompts))
        self._check_ids(prompts)
        first, self._next_id = self._next_id, self._next_id + len(prompts)
        requests = [
            EngineRequest(
                first + i,
                ids,
                p,
                tuple(seed_of(p.seed, self._seed, i, 0, k) for k in range(p.n)),
                tuple(range(p.n)),
                stream=bool(p.stop),
            )
            for i, (ids, p) in enumerate(zip(prompts, each, strict=True))
        ]
        found = self._collect(requests)
        return [
            RequestOutput(text, ids, [self._output(s, p) for s in sorted(samples, key=lambda s: s.sample_index)])
            for text, ids, samples, p in zip(texts, prompts, found, each, strict=True)
        ]

    def _each(self, params: SamplingParams | Sequence[SamplingParams], count: int) -> list[SamplingParams]:
        """The parameters of each prompt, checked, as the engine takes them."""
        prefix = "SamplingParams."
        if isinstance(params, SamplingParams):
            return [resolve_tokens(checked_sampling(params, prefix), self.tokenizer, prefix)] * count
        if not isinstance(params, Sequence) or not all(isinstance(p, SamplingParams) for p in params):
            raise ConfigError(f"sampling_params={params!r}: must be SamplingParams(...), or a list of them")
        if len(params) != count:
            raise ConfigError(f"generate: {len(params)} sampling_params for {count} prompts; give one, or one each")
        return [resolve_tokens(checked_sampling(p, prefix), self.tokenizer, prefix) for p in params]

    def _rendered(self, index: int, messages: list[Message], template_kwargs: dict[str, Any]) -> RenderedChat:
        try:
            chat = self.tokenizer.render_chat(messages, **template_kwargs)
        except ChatError as error:
            raise ConfigError(f"chat: conversation {index}: {error}") from None
        check_text(chat.text, f"chat: conversation {index}")
        return chat

    def _check_ids(self, prompts: list[list[int]]) -> None:
        """An id that the model does not have would fail the whole step, and on a GPU the whole process."""
        for i, ids in enumerate(prompts):
            if ids and not 0 <= min(ids) <= max(ids) < self.tokenizer.num_tokens:
                raise ConfigError(f"generate: prompt {i}: token ids go from 0 to {self.tokenizer.num_tokens - 1}")

    def _collect(self, requests: list[EngineRequest]) -> list[list[Sample]]:
        """Runs requests to their end; the samples of each. A stop string ends its sample as soon as it is seen."""
        first, missing = requests[0].request_id if requests else 0, sum(r.sampling.n for r in requests)
        found: list[list[Sample]] = [[] for _ in requests]
        matchers: dict[SampleKey, StopMatcher] = {}
        self._client.submit(requests)
        self._client.close_input()
        while missing:
            for output in self._client.poll(_POLL_SECONDS):
                which = output.request_id - first
                if which < 0:
                    continue  # of an earlier call that was interrupted
                if isinstance(output, Sample):
                    found[which].append(output)
                    missing -= 1
                    continue
                key = output.request_id, output.sample_index
                if key not in matchers:
                    matchers[key] = self._matcher(requests[which].sampling)
                if matchers[key].push(output.token_ids):
                    self._client.abort([key])
        return found

    def _matcher(self, params: SamplingParams) -> StopMatcher:
        return StopMatcher(
            self.tokenizer,
            params.stop,
            include_stop=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
        )

    def _output(self, sample: Sample, params: SamplingParams) -> SampleOutput:
        ids, logprobs = sample.token_ids, sample.logprobs
        if params.stop:
            matcher = self._matcher(params)
            hit = matcher.push(ids) or matcher.finish()
            if hit:
                ids = ids[: hit.num_tokens]
                entries = logprobs.entries(ids) if logprobs else None
                return SampleOutput(sample.sample_index, hit.text, ids, "stop", hit.stop, logprobs=entries)
        text = self.tokenizer.decode(ids, skip_special_tokens=params.skip_special_tokens)
        entries = logprobs.entries(ids) if logprobs else None
        reason = str(sample.finish_reason)
        return SampleOutput(sample.sample_index, text, ids, reason, sample.stop_reason, sample.error, entries)
