"""From what the engine returns to what is written: ids to text, stop strings, the job's parse, the row's result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from runner.errors import RunnerError, told
from runner.report.guard import QualityGuard, says_something
from runner.run.inflight import RowWork, Ticket
from runner.run.stop_strings import stop_matcher
from runner.text import ReasoningMarks, as_in_source, split_reasoning
from runner.types import (
    Completion,
    FinishReason,
    Job,
    Refused,
    Request,
    RowError,
    RowResult,
    Sample,
    Stage,
    Tokenizer,
)

logger = logging.getLogger(__name__)


class Finisher:
    """Turns samples into records of their rows.

    ``names`` maps the plain name of each added column to its name in the output; a column that is not in it is not
    kept. ``model`` is written to every record. With ``reasoning`` what stands between these marks is split off.
    ``guard`` sees every answer.
    """

    def __init__(
        self,
        job: Job,
        tokenizer: Tokenizer,
        names: Mapping[str, str],
        model: str,
        reasoning: ReasoningMarks | None = None,
        guard: QualityGuard | None = None,
    ) -> None:
        self._job = job
        self._tokenizer = tokenizer
        self._names = names
        self._model = model
        self._reasoning = reasoning
        self._guard = guard or QualityGuard()

    def take(self, ticket: Ticket, sample: Sample) -> int:
        """Adds a sample to its row's result; returns its number of completion tokens."""
        if sample.finish_reason is FinishReason.ERROR:
            self._fail(ticket, sample, Stage.GENERATE, "engine", sample.error or "the engine gave no reason")
            return 0
        completion = self._completion(ticket, sample)
        self._parse(ticket, sample, completion)
        return completion.completion_tokens

    def _completion(self, ticket: Ticket, sample: Sample) -> Completion:
        request = ticket.request
        text, num_tokens, reason, stop_reason = self._text(request, sample)
        reasoning = None
        if self._reasoning is not None:
            reasoning, text = split_reasoning(text, self._reasoning, request.prompt, request.messages)
        return Completion(
            row_id=request.row_id,
            request_index=request.request_index,
            sample_index=sample.sample_index,
            text=text,
            finish_reason=reason,
            stop_reason=stop_reason,
            prompt_tokens=len(request.prompt_token_ids),
            completion_tokens=num_tokens,
            seed=ticket.seeds[sample.sample_index],
            prompt=request.prompt,
            messages=request.messages,
            reasoning=reasoning,
            logprobs=sample.logprobs.entries(sample.token_ids[:num_tokens]) if sample.logprobs else None,
        )

    def _text(self, request: Request, sample: Sample) -> tuple[str, int, FinishReason, int | str | None]:
        sampling = request.sampling
        if sampling.stop:
            matcher = stop_matcher(self._tokenizer, sampling)
            hit = matcher.push(sample.token_ids) or matcher.finish()
            if hit:
                return hit.text, hit.num_tokens, FinishReason.STOP, hit.stop
        assert sample.finish_reason is not FinishReason.ABORT, "only a stop string ends a sample early"
        text = self._tokenizer.decode(sample.token_ids, skip_special_tokens=sampling.skip_special_tokens)
        return text, len(sample.token_ids), sample.finish_reason, sample.stop_reason

    def _parse(self, ticket: Ticket, sample: Sample, completion: Completion) -> None:
        result = ticket.work.result
        parsed: dict[str, Any] | None = {}
        try:
            parsed = self._job.parse(as_in_source(ticket.work.row.values), completion)
        except Refused as refusal:
            self._fail(ticket, sample, Stage.PARSE, refusal.code, str(refusal), raw=completion.text)
            return
        except RunnerError:
            raise
        except Exception as error:  # noqa: BLE001 - the job is the user's code: one bad answer never ends the run
            self._fail(ticket, sample, Stage.PARSE, "parse_failed", told(error), raw=completion.text)
            return
        finally:
            self._guard.add(completion, parsed=says_something(parsed, self._job.columns))
        if parsed is None:
            result.dropped += 1
        else:
            result.records.append(self._record(ticket.work, completion, parsed))

    def _record(self, work: RowWork, completion: Completion, parsed: Mapping[str, Any]) -> dict[str, Any]:
        own = {
            "row_id": completion.row_id,
            "request_index": completion.request_index,
            "sample_index": completion.sample_index,
            "prompt": completion.prompt,
            "messages": completion.messages,
            "completion": completion.text,
            "reasoning": completion.reasoning,
            "finish_reason": completion.finish_reason.value,
            "stop_reason": None if completion.stop_reason is None else str(completion.stop_reason),
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "seed": completion.seed,
            "model": self._model,
            "logprobs": completion.logprobs,
            **parsed,
        }
        names = self._names
        if "messages" in names and completion.messages is not None:
            own["messages"] = [*completion.messages, {"role": "assistant", "content": completion.text}]
        return {**work.row.values, **{names[name]: value for name, value in own.items() if name in names}}

    def _fail(
        self, ticket: Ticket, sample: Sample, stage: Stage, code: str, message: str, raw: str | None = None
    ) -> None:
        ticket.work.result.errors.append(
            RowError(
                row_id=ticket.request.row_id,
                stage=stage,
                code=code,
                message=message,
                file=ticket.work.row.file,
                line=ticket.work.row.line,
                raw=raw,
                source=ticket.work.row.values,
                request_index=ticket.request.request_index,
                sample_index=sample.sample_index,
            )
        )


def quarantined(work: RowWork, message: str) -> RowResult:
    """The result of a row whose open samples are given up; what is finished of it stays."""
    result = work.result
    untouched = not (work.is_partial or result.records or result.errors or result.dropped)
    places = [(None, None)] if untouched else sorted(work.pending)
    result.errors += [
        RowError(
            row_id=work.row.row_id,
            stage=Stage.GENERATE,
            code="engine_crash",
            message=message,
            file=work.row.file,
            line=work.row.line,
            source=work.row.values,
            request_index=request_index,
            sample_index=sample_index,
            num_samples=len(work.pending) if untouched else 1,
        )
        for request_index, sample_index in places
    ]
    return result
