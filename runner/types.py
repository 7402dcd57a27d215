"""The values that the rooms exchange. No torch, no pyarrow, no I/O.

A *row* is one record of the input. A job renders it to one or more *requests*; a request asks for
``n`` *samples*; the engine runs each sample as one *sequence*.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

Message = dict[str, Any]
"""One chat message: at least ``role`` and ``content``."""


class FinishReason(StrEnum):
    """Why a sample ended."""

    STOP = "stop"  # an end-of-sequence id, a stop id or a stop string
    LENGTH = "length"  # max_tokens or the context was reached
    REPETITION = "repetition"  # an exact cycle was detected (opt-in)
    ABORT = "abort"  # ended by the caller
    ERROR = "error"  # the engine could not finish it; Sample.error says why


class Stage(StrEnum):
    """Where a row was refused."""

    READ = "read"
    RENDER = "render"
    TOKENIZE = "tokenize"
    GENERATE = "generate"
    PARSE = "parse"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request is sampled. The names and meanings are vLLM's; `runner.text.sampling` has the ranges.

    ``top_k`` 0 or -1 is off. ``temperature`` 0 is greedy. ``seed`` None means that the run derives one
    from (run seed, row_id, request_index, sample_index); see `runner.seeds`.
    """

    max_tokens: int = 1024
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str | tuple[int, ...], ...] = ()  # texts, or ids where the tokenizer has been asked
    logprobs: int | None = None
    repetition_stop: int = 0  # tokens an exact cycle must cover before it stops a sample; 0 is off
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    @property
    def is_length_certain(self) -> bool:
        """Whether nothing but ``max_tokens`` or the context can end a sample."""
        return self.ignore_eos and not (self.stop or self.stop_token_ids or self.repetition_stop)


@dataclass(slots=True)
class SourceRow:
    """One readable input row. ``values`` are the source columns as Python objects; ``line`` counts from 1."""

    row_id: int
    values: dict[str, Any]
    file: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class RowError:
    """One row, request or sample that could not be done; becomes one record under ``errors/``.

    ``num_samples`` says for how many samples it stands; ``request_index`` is None for the whole row.
    """

    row_id: int
    stage: Stage
    code: str
    message: str
    file: str | None = None
    line: int | None = None
    raw: str | None = None
    source: dict[str, Any] | None = None
    request_index: int | None = None
    sample_index: int | None = None
    num_samples: int = 1


@dataclass(slots=True)
class Request:
    """One rendered prompt of a row. ``messages`` is None for raw text; ``truncated``: the prompt's start was cut."""

    row_id: int
    request_index: int
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    prompt: str | None = None
    messages: list[Message] | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of the probabilities with which the tokens of a sample were drawn.

    They are of the distribution that was sampled from: after penalties, bias and bad words, temperature, top-k, top-p
    and min-p; a greedy sample's are at temperature 1 without the filters. ``packed`` has for each token its own
    (float32), then ``num_top`` pairs (int32 id, float32) of the best tokens in falling order, the id -1 where
    fewer could be drawn; little-endian.
    """

    num_top: int
    packed: bytes

    def entries(self, token_ids: Sequence[int]) -> list[dict[str, Any]]:
        """One record for each of ``token_ids``, which may be fewer than all: token_id, logprob, and the best as top."""
        rows = struct.iter_unpack("<f" + "if" * self.num_top, self.packed)
        return [
            {"token_id": token, "logprob": own, "top": _best_tokens(best)}
            for token, (own, *best) in zip(token_ids, rows, strict=False)
        ]


def _best_tokens(flat: list[Any]) -> list[dict[str, Any]]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [{"token_id": token, "logprob": value} for token, value in pairs if token >= 0]


@dataclass(slots=True)
class Sample:
    """What the engine returns for one sample: ids only. ``error`` is set with FinishReason.ERROR."""

    request_id: int
    sample_index: int
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    error: str | None = None
    logprobs: Logprobs | None = None


@dataclass(slots=True)
class Completion:
    """A finished sample as text: what ``parse(row, completion)`` of a job receives.

    ``logprobs`` is set where the request asked: one record a token, as `Logprobs.entries` makes them.
    """

    row_id: int
    request_index: int
    sample_index: int
    text: str
    finish_reason: FinishReason
    stop_reason: int | str | None
    prompt_tokens: int
    completion_tokens: int
    seed: int
    prompt: str | None = None
    messages: list[Message] | None = None
    reasoning: str | None = None
    logprobs: list[dict[str, Any]] | None = None


@dataclass(slots=True)
class RowResult:
    """Everything that one input row came to; the unit of the journal.

    Each record holds the output columns of one sample. A row is done when its result is written:
    ``len(records) + sum(e.num_samples for e in errors) + dropped`` samples are accounted for. ``row`` is what it was
    made of, None where that could not be read: an error that is found later says where it stands.
    """

    row_id: int
    records: list[dict[str, Any]] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    dropped: int = 0
    row: SourceRow | None = None


@dataclass(slots=True)
class EngineRequest:
    """What crosses to the engine: ids and numbers only. ``seeds`` has one entry a sample."""

    request_id: int
    prompt_token_ids: Any  # [P] ids: a list, or an int32 array
    sampling: SamplingParams
    seeds: tuple[int, ...]
    sample_indices: tuple[int, ...] = (0,)
    stream: bool = False  # send the ids as they come: somebody may end a sample early


@dataclass(slots=True)
class TokenChunk:
    """The next ids of a sample that goes on; only for requests with ``stream``. Its Sample holds all of them again."""

    request_id: int
    sample_index: int
    token_ids: list[int]


SampleKey = tuple[int, int]
"""(request_id, sample_index)"""


@dataclass(slots=True)
class EngineStats:
    """A snapshot of the engine's counters; totals count from the engine's start."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    prefill_seconds: float = 0.0  # device time of prompts; of what rows beside them share, what they take alone
    decode_seconds: float = 0.0  # device time of rows
    idle_seconds: float = 0.0  # device time between one step's end and the next one's start, while there was work
    kv_tokens_read: int = 0  # tokens of cache that the steps have read for their running sequences
    kv_tokens_shared: int = 0  # of these, what was read for one sequence and served others too
    running_lengths: Any = field(default=(), compare=False)  # [R] answer tokens so far of each running sequence
    running_limits: Any = field(default=(), compare=False)  # [R] the most answer tokens that each of them may get
    running_certain: bool = True  # they get as many: nothing else could end any request so far
    device: str = ""  # the accelerator's name; empty on a CPU


class Tokenizer(Protocol):
    """What the rooms need of a tokenizer; `runner.text` has the one over transformers."""

    def encode(self, text: str, *, special: bool) -> list[int]: ...

    def encode_chat(self, messages: list[Message], **template_kwargs: Any) -> tuple[str, list[int]]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...


class EngineClient(Protocol):
    """An engine as the run sees it; the spawned process, the in-process core and the stand-in all fit."""

    def submit(self, requests: Sequence[EngineRequest]) -> None: ...

    def poll(self, timeout: float) -> Sequence[Sample | TokenChunk]: ...

    def abort(self, samples: Sequence[SampleKey]) -> None:
        """Ends samples: each comes back as ABORT with what it has, unless it has ended already."""

    def drop_waiting(self) -> None:
        """Ends, as ABORT, the samples that have not started: the run is to stop and only what runs may finish."""

    def close_input(self) -> None:
        """No more requests will come for now: what waits is reordered so that the tail is short."""

    def stats(self) -> EngineStats: ...

    def kill(self) -> None:
        """Ends the engine at once, whatever it is doing; `close` comes after."""

    def close(self) -> None: ...


class Job(Protocol):
    """What to ask and how to read the answer; `jobs` holds the registered ones.

    ``columns`` declares the parsed columns: name to Arrow type name ("string", "int64", "list<string>", ...).
    ``code`` is the hash of the job's source file. ``prompt`` returns the prompt of a row: a string, a list of messages
    or of token ids, a list of such (one request each), or None to drop the row. ``parse`` returns the values of
    ``columns`` for one completion, or None to drop the sample. Either raises `Refused` with a reason.
    """

    columns: dict[str, str]
    code: str

    def prompt(self, row: dict[str, Any]) -> Any: ...

    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any] | None: ...


class Refused(Exception):  # noqa: N818 - a decision of the job, not a fault
    """Raised by a job: this row or sample goes to errors/ with a code and a reason."""

    def __init__(self, message: str, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code
