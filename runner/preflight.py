"""`python -m runner.preflight job=...`: what the input holds, what fits the card, how long it takes, what it costs.

Reads all or a sample of the input with the tokenizer and the model's configuration; no weights, no GPU, no output
folder.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from runner.cli.entry import main
from runner.config import LoadFormat, RunnerConfig
from runner.report.cards import card_of, model_shape
from runner.report.estimate import Answers, Demand, describe_cost, describe_memory, expected_answers
from runner.report.plain import one_line, table
from runner.report.survey import PromptSurvey, histogram, quantile
from runner.run.backends import choose_backend
from runner.run.plan import Plan
from runner.types import Request, RowError, SourceRow

_USAGE = """\
Says what a run would meet and need, without a GPU, weights or an output folder: token lengths, rows that are bad or
too long, duplicates, shared beginnings, KV cache and how many sequences run at once, disk, hours and cost.

  python -m runner.preflight job=NAME [group=PRESET ...] [key=value ...]

The arguments are those of the run; `python -m runner --help` lists them. Of its own:
  preflight.rows=10000          rows to look at, spread evenly over the input; null looks at all
  preflight.measured=DIR        an earlier run's output folder to take lengths and speed from; default: output.dir
  cost.card=h100                the card that estimates are for
  cost.num_cards=1              how many of them share the work
  cost.dollars_per_gpu_hour=5   turns hours into dollars

Exit codes: 0 shown, 64 settings or input refused.
"""

_BATCH_ROWS = 256
_STRETCHES = 20
_SHOWN_CODES = 8


class Look:
    """What a pass over the input saw."""

    def __init__(self, block_size: int) -> None:
        self.prompts = PromptSurvey(block_size)
        self.limits: list[int] = []
        self.exact_answers = 0
        self.samples = self.rows = self.dropped = self.source_bytes = self.text_bytes = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add_error(self, error: RowError) -> None:
        self.errors[error.code] += 1
        self.examples.setdefault(error.code, f"row {error.row_id}: {one_line(error.message, 140)}")

    def add_request(self, request: Request) -> None:
        sampling = request.sampling
        self.prompts.add(request.prompt_token_ids)
        self.limits.append(sampling.max_tokens)
        self.exact_answers += sampling.ignore_eos or sampling.min_tokens == sampling.max_tokens
        self.samples += sampling.n
        self.text_bytes += len(request.prompt or "")


def preflight(config: RunnerConfig, origins: dict[str, str]) -> Iterator[str]:
    """The pieces of the report. Raises RunnerError as a run of these settings would."""
    card = card_of(config.cost.card)
    config.model = replace(config.model, load_format=LoadFormat.dummy)
    plan = Plan(config, choose_backend(config))
    look = _look(plan, config.preflight.rows)
    yield _input(plan, look)
    if not look.limits:
        yield "No row gives a prompt: there is nothing to estimate."
        return
    yield _prompts(plan, look)
    answers = expected_answers(config, plan.folder, look.limits, look.exact_answers == len(look.limits))
    scale = plan.inventory.num_rows / max(look.rows, 1)
    demand = Demand(
        prompts=look.prompts.lengths,
        limits=look.limits,
        samples=look.samples * scale,
        shared_share=look.prompts.shared_share if config.engine.enable_prefix_caching else 0.0,
    )
    shape = model_shape(plan.backend.model_config, config.model.dtype.value)
    yield describe_memory(config, card, shape, demand, answers)
    yield _disk(look, answers, scale)
    yield describe_cost(config, card, shape, demand, answers)


def _look(plan: Plan, limit: int | None) -> Look:
    look = Look(plan.config.engine.block_size)
    renderer = plan.renderer(plan.backend.open_tokenizer())
    reader = plan.reader()
    for start, stop in stretches(plan.inventory.num_rows, limit):
        batch: list[SourceRow] = []
        for item in reader.read(start, stop):
            look.rows += 1
            if isinstance(item, RowError):
                look.add_error(item)
                continue
            look.source_bytes += sum(len(str(value)) for value in item.values.values())
            batch.append(item)
            if len(batch) == _BATCH_ROWS:
                _render(look, renderer.render(batch))
                batch = []
        _render(look, renderer.render(batch))
    return look


def _render(look: Look, rendered: list[list[Request | RowError]]) -> None:
    look.dropped += sum(not items for items in rendered)
    for item in (item for items in rendered for item in items):
        if isinstance(item, RowError):
            look.add_error(item)
        else:
            look.add_request(item)


def stretches(num_rows: int, limit: int | None) -> list[tuple[int, int]]:
    """Row ranges to read: everything, or stretches of ``limit`` rows in all, spread from the first row to the last."""
    if limit is None or limit >= num_rows:
        return [(0, num_rows)]
    count = min(_STRETCHES, limit)
    sizes = [limit // count + (i < limit % count) for i in range(count)]
    starts = [sum(sizes[:i]) + i * (num_rows - limit) // max(count - 1, 1) for i in range(count)]
    return [(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _input(plan: Plan, look: Look) -> str:
    total = plan.inventory.num_rows
    seen = "all read" if look.rows == total else f"{look.rows:,} of them read, spread evenly"
    num_files = len(plan.inventory.files)
    lines = [f"Input\n  {total:,} rows in {num_files:,} file{'' if num_files == 1 else 's'} ({seen})"]
    if look.dropped:
        lines.append(f"  {look.dropped:,} rows are dropped by the job")
    if look.errors:
        bad = look.errors.total()
        lines.append(f"  {bad:,} bad ({bad / max(look.rows, 1):.1%}); these go to errors/:")
        codes = look.errors.most_common(_SHOWN_CODES)
        lines.append(table([(one_line(code, 40), f"{count:,}", look.examples[code]) for code, count in codes], "    "))
        if bad > plan.config.output.max_error_rate * look.rows and total >= plan.config.output.max_error_rate_after:
            limit = plan.config.output.max_error_rate
            lines.append(f"  that is over output.max_error_rate={limit:g}: the run would stop with exit code 3")
    return "\n".join(lines) + "\n"


def _prompts(plan: Plan, look: Look) -> str:
    lengths, survey = look.prompts.lengths, look.prompts
    room = plan.backend.max_model_len
    lines = [
        f"Prompts: {len(lengths):,}, tokens each",
        f"  median {quantile(lengths, 0.5):,}, mean {sum(lengths) / len(lengths):,.0f}, "
        f"95 % {quantile(lengths, 0.95):,}, longest {max(lengths):,}"
        + (f"; room for prompt and answer {room:,}" if room else ""),
        histogram(lengths),
        f"  too long: {look.errors['prompt_too_long']:,}; duplicates of an earlier prompt: {survey.duplicates:,}; "
        f"shared beginnings: {survey.shared_share:.0%} of the tokens",
    ]
    return "\n".join(lines) + "\n"


def _disk(look: Look, answers: Answers, scale: float) -> str:
    """Text shrinks to a third or a half under zstd; while it runs, open ranges lie in the journal uncompressed."""
    per_request = (look.source_bytes + look.text_bytes) * scale
    low, high = ((per_request + look.samples * scale * mean * 4.5) for mean in (answers.low, answers.high))
    return (
        f"Disk\n  about {_size(low * 0.3)} to {_size(high * 0.6)}, and up to {_size(high * 0.5)} more while it runs\n"
    )


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, preflight))
