"""The durable output: journal, parts, commits, resume; docs/durability.md says what it promises."""

from runner.output.columns import Columns, plan_columns
from runner.output.commits import Totals
from runner.output.folder import start_over
from runner.output.lock import supports_leases
from runner.output.logprobs import may_ask_logprobs
from runner.output.messages import may_hold_tools
from runner.output.opening import OutputSpec, Summary
from runner.output.output import Output, recorded_job
from runner.output.ranges import Range
from runner.output.rerun import SampleKeys, Selection
from runner.output.reservation import Reservation
from runner.output.survey import Attempt, Survey, Surveyor

__all__ = [
    "Attempt",
    "Columns",
    "Output",
    "OutputSpec",
    "Range",
    "Reservation",
    "SampleKeys",
    "Selection",
    "Summary",
    "Survey",
    "Surveyor",
    "Totals",
    "may_ask_logprobs",
    "may_hold_tools",
    "plan_columns",
    "recorded_job",
    "start_over",
    "supports_leases",
]
