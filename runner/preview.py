"""`python -m runner.preview job=...`: what a run would ask, with which sampling, and what it would write.

Reads the first rows of the input, the tokenizer and the model's configuration; no weights, no GPU, no output folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from runner.cli.entry import main
from runner.cli.origins import DEFAULT
from runner.config import LoadFormat, RunnerConfig
from runner.report.plain import one_line, plain, table
from runner.report.prompt_view import PromptView
from runner.run.backends import choose_backend
from runner.run.plan import Plan
from runner.text import PromptTokenizer
from runner.types import Request, RowError, SourceRow

_USAGE = """\
Shows what a run would do, without a GPU, weights or an output folder: the prompts of the first rows as the model
will see them, the sampling parameters with where each comes from, and the columns of the output.

  python -m runner.preview job=NAME [group=PRESET ...] [key=value ...]

The arguments are those of the run; `python -m runner --help` lists them. Of its own:
  preview.rows=3     rows to show

Special tokens stand in ⟦⟧; the same text without them is text. Control characters are spelled out, as \\x1b.

Exit codes: 0 shown, 64 settings or input refused.
"""

_SCHEMA_ROWS = 1000  # read for the columns of text formats, which declare none
_PROMPT_CHARS = 20_000
_RULE = "─" * 78


def preview(config: RunnerConfig, origins: dict[str, str]) -> Iterator[str]:
    """The pieces of the preview. Raises RunnerError as a run of these settings would."""
    limit = config.input.limit
    config.model = replace(config.model, load_format=LoadFormat.dummy)
    config.input = replace(config.input, limit=_SCHEMA_ROWS if limit is None else min(limit, _SCHEMA_ROWS))
    plan = Plan(config, choose_backend(config))
    tokenizer = plan.backend.open_tokenizer()
    for item in plan.reader().read(0, config.preview.rows):
        yield from _row(plan, tokenizer, item)
    if not plan.inventory.num_rows:
        yield "The input has no rows."
    yield _sampling(plan, origins)
    yield _columns(plan)


def _row(plan: Plan, tokenizer: PromptTokenizer, item: SourceRow | RowError) -> Iterator[str]:
    if isinstance(item, RowError):
        yield _error(item)
        return
    (results,) = plan.renderer(tokenizer).render([item])
    if not results:
        yield f"Row {item.row_id}: dropped by the job\n"
    for result in results:
        yield _error(result) if isinstance(result, RowError) else _request(plan, tokenizer, result)


def _error(error: RowError) -> str:
    return (
        f"Row {error.row_id}: would go to errors/ with {one_line(error.code)} ({error.stage}): "
        f"{one_line(error.message, 300)}\n"
    )


def _request(plan: Plan, tokenizer: PromptTokenizer, request: Request) -> str:
    part = f", request {request.request_index}" if request.request_index else ""
    notes = [f"{len(request.prompt_token_ids)} tokens"]
    own, job = asdict(request.sampling), asdict(plan.sampling)
    notes += [f"{name}={own[name]} (this row's own)" for name in own if own[name] != job[name]]
    notes += ["its beginning is cut to fit"] if request.truncated else []
    pieces = PromptView(tokenizer).pieces(request.prompt_token_ids)
    text = "".join(_piece(is_special, text, sys.stdout.isatty()) for is_special, text in pieces)
    return f"Row {request.row_id}{part}: {', '.join(notes)}\n{_RULE}\n{text}\n{_RULE}\n"


def _piece(is_special: bool, text: str, colour: bool) -> str:
    """Special tokens in brackets, and in reverse video on a terminal; nothing else sends an escape."""
    safe = plain(text, _PROMPT_CHARS)
    if not is_special:
        return safe
    return f"\x1b[7m⟦{safe}⟧\x1b[0m" if colour else f"⟦{safe}⟧"


def _sampling(plan: Plan, origins: dict[str, str]) -> str:
    rows = []
    for name, value in asdict(plan.sampling).items():
        given = getattr(plan.config.sampling, name, None) is not None
        origin = origins.get(f"sampling.{name}", DEFAULT) if given else DEFAULT
        if not given and plan.backend.generation_config.get(name) is not None:
            origin = "generation_config.json"
        rows.append((name, _value(value), origin))
    model_len = plan.backend.max_model_len
    limit = f"\n\n  A prompt and its answer have room for {model_len:,} tokens (max_model_len)." if model_len else ""
    return f"Sampling\n{table(rows)}{limit}\n"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return one_line(str(list(value) if isinstance(value, tuple) else value))


def _columns(plan: Plan) -> str:
    columns, parsed = plan.columns, set(plan.job.columns)
    own = {full: name for name, full in columns.names.items()}
    rows = []
    for field in columns.data:
        origin = "from the input"
        if field.name in own:
            origin = "read out of the answer by the job" if own[field.name] in parsed else "added by the runner"
        rows.append((one_line(field.name), one_line(str(field.type), 60), origin))
    return f"Columns of {plan.folder}/data\n{table(rows)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, preview))
