"""The engine as a library, shaped like vLLM's ``LLM``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from runner.config import Device, Dtype, EngineConfig, LoadFormat, ModelSettings
from runner.engine.process import EngineProcess
from runner.engine.settings import EngineSettings
from runner.errors import ConfigError
from runner.limits import beyond_limits, engine_conflicts
from runner.models import resolve_model
from runner.seeds import seed_of
from runner.text import StopMatcher, TextTokenizer, checked_sampling, resolve_tokens
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
    `close`. Raises ConfigError for a model or a setting that cannot be served, EngineError when the engine dies.
    """

    def __init__(self, model: str, *, seed: int = 0, **settings: Any) -> None:
        names = {f.name for f in fields(ModelSettings)} - {"path"}
        chosen = {key: settings.pop(key) for key in names & settings.keys()}
        for key, kind in (("dtype", Dtype), ("device", Device), ("load_format", LoadFormat)):
            if key in chosen:
                chosen[key] = _member(kind, key, chosen[key])
        unknown = settings.keys() - {f.name for f in fields(EngineConfig)}
        if unknown:
            raise ConfigError(f"Engine({sorted(unknown)[0]}=...): no such setting; see runner.config.EngineConfig")
        engine_settings = EngineConfig(**settings)
        for problem in (*beyond_limits("engine", engine_settings), *engine_conflicts(engine_settings)):
            raise ConfigError(problem)
        model_settings = ModelSettings(path=model, **chosen)
        files = resolve_model(model_settings)
        self.tokenizer = TextTokenizer(files.folder, trust_remote_code=model_settings.trust_remote_code)
        self._client = EngineProcess(EngineSettings(files, model_settings, engine_settings))
        self._seed = seed
        self._next_id = 0

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Completes texts or token ids; one SamplingParams for all, or one each. Outputs come in the prompts' order."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = [self.tokenizer.encode(p, special=True) if isinstance(p, str) else [int(i) for i in p] for p in texts]
        return self._run([p if isinstance(p, str) else None for p in texts], ids, sampling_params)

    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        **template_kwargs: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the model's chat template."""
        many = [conversations] if conversations and isinstance(conversations[0], dict) else conversations
        rendered = [self.tokenizer.encode_chat(list(c), **template_kwargs) for c in many]  # type: ignore[arg-type]
        return self._run([text for text, _ in rendered], [ids for _, ids in rendered], sampling_params)

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
        each = self._each(sampling_params or SamplingParams(), len(prompts))
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
        if len(params) != count:
            raise ConfigError(f"generate: {len(params)} sampling_params for {count} prompts; give one, or one each")
        return [resolve_tokens(checked_sampling(p, prefix), self.tokenizer, prefix) for p in params]

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


def _member(kind: Any, key: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(member.value for member in kind)
        raise ConfigError(f"Engine({key}={value!r}): choose one of {choices}") from None
