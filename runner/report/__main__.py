"""`python -m runner.report DIR`: one page about a run, in DIR/report.html."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runner.cli.outcome import exit_code_of, help_code, wants_help
from runner.errors import ConfigError, ExitCode, StorageError
from runner.output.contents import Contents, read_contents
from runner.output.whole_file import whole_or_nothing
from runner.report.history import history_of
from runner.report.metrics import metrics_by_run
from runner.report.page import Facts, render
from runner.report.samples import answer_card, error_card

_USAGE = """\
Writes DIR/report.html: what ran and with what, counts and errors, lengths, speed over time, quality, cost, and answers
beside their prompts that can be searched. One file that needs no network; also for a run that is still going on.

  python -m runner.report DIR [key=value ...]

  samples=500                   answers on the page, spread over the run
  errors=100                    errors on the page
  cost.dollars_per_gpu_hour=5   turns hours of GPUs into dollars; default: as the last run was told

Exit codes: 0 written, 64 no output folder or a bad argument, 65 damaged, 74 the disk refused.
"""


def main(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    if wants_help(arguments):
        sys.stdout.write(_USAGE)
        return help_code(arguments)
    return exit_code_of(lambda: _report(arguments))


def _report(arguments: list[str]) -> int:
    folder, options = _parse(arguments)
    path = write_report(folder, int(options["samples"]), int(options["errors"]), _rate(options))
    sys.stdout.write(f"{path}\n")
    return ExitCode.DONE


def write_report(folder: Path, max_samples: int, max_errors: int, dollars_per_gpu_hour: float | None) -> Path:
    """Replaces the report as a whole; raises RunnerError as `read_contents` does, StorageError for the page."""
    contents = read_contents(folder, max_samples, max_errors)
    path = folder / "report.html"
    page = render(_facts(folder, contents, dollars_per_gpu_hour))
    try:
        with whole_or_nothing(path, scratch=folder / ".runner") as draft:
            draft.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; once that is solved, run the same command again") from error
    return path.resolve()


def _facts(folder: Path, contents: Contents, dollars_per_gpu_hour: float | None) -> Facts:
    job = contents.job
    added = {"row_id", "request_index", "sample_index", "prompt", "messages", "completion", "reasoning", "model"}
    added |= {"finish_reason", "stop_reason", "prompt_tokens", "completion_tokens", "seed", "logprobs"}
    parsed = [name for name in job.names if name not in added]
    cards = [answer_card(line, parsed) for line in contents.lines]
    cards += [error_card(line, job.error_names) for line in contents.errors]
    return Facts(
        name=job.name,
        is_done=contents.is_done,
        num_rows=job.num_rows,
        totals=contents.totals,
        settings=job.fingerprint,
        finish_reasons=contents.finish_reasons,
        lengths=contents.lengths,
        samples=cards,
        history=history_of(metrics_by_run(folder)),
        dollars_per_gpu_hour=dollars_per_gpu_hour,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _parse(arguments: list[str]) -> tuple[Path, dict[str, str]]:
    options = {"samples": "500", "errors": "100", "cost.dollars_per_gpu_hour": ""}
    folders = [argument for argument in arguments if "=" not in argument]
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if (equals and key not in options) or argument.startswith("-"):
            raise ConfigError(f"{argument}: no such setting; there are {', '.join(options)}")
        if equals:
            options[key] = _checked(argument, value, whole=key in ("samples", "errors"))
    if len(folders) != 1:
        raise ConfigError(f"give one output folder, not {len(folders)}; python -m runner.report --help shows how")
    return Path(folders[0]), options


def _checked(argument: str, value: str, whole: bool) -> str:
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{argument}: must be a {'whole ' if whole else ''}number, 0 or more")
    return value


def _rate(options: dict[str, str]) -> float | None:
    rate = options["cost.dollars_per_gpu_hour"]
    return float(rate) if rate else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
