"""The durable output: journal, parts, commits, resume; docs/durability.md says what it promises."""

from runner.output.columns import Columns, plan_columns
from runner.output.commits import Totals
from runner.output.output import Output, OutputSpec, Summary, recorded_job
from runner.output.ranges import Range

__all__ = ["Columns", "Output", "OutputSpec", "Range", "Summary", "Totals", "plan_columns", "recorded_job"]
