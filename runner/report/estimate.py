"""Memory, hours and dollars of a job that has not run, with how far each may be off."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config import RunnerConfig
from runner.errors import ConfigError
from runner.report.cards import Card, ModelShape
from runner.report.metrics import Measured, last_measured
from runner.report.plain import one_line
from runner.report.roofline import Load, fit, seconds_at_limit
from runner.report.throughput import duration

_UNKNOWN_LOW = 0.15  # without any run, answers are taken to be this share of max_tokens or longer
_SPREAD = 0.25  # how far the mean of a first few answers may be off
_MEASURED_SPREAD = 0.3


@dataclass(frozen=True)
class Answers:
    """The mean number of tokens of an answer, between ``low`` and ``high``, and where that is from."""

    low: float
    high: float
    origin: str
    measured: Measured | None = None

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Demand:
    """Prompt lengths and limits of the requests looked at; ``samples`` is the count of the whole job."""

    prompts: Sequence[int]
    limits: Sequence[int]
    samples: float
    shared_share: float

    @property
    def mean_prompt(self) -> float:
        return sum(self.prompts) / len(self.prompts)


def expected_answers(config: RunnerConfig, folder: Path, limits: Sequence[int], exact: bool) -> Answers:
    """Exact where every answer has its full length; else from an earlier run; else a wide guess."""
    mean_limit = sum(limits) / len(limits)
    named = config.preflight.measured
    measured = last_measured(Path(named).expanduser() if named else folder)
    if named and measured is None:
        raise ConfigError(
            f"preflight.measured={named}: no run that finished an answer was measured there; give an output folder"
        )
    if exact:
        return Answers(mean_limit, mean_limit, "every answer has its full length", measured)
    if measured is None:
        low = max(1.0, _UNKNOWN_LOW * mean_limit)
        return Answers(low, mean_limit, "a guess: no run has been measured; try input.limit=100 first")
    spread = _SPREAD if measured.samples < 1000 else _SPREAD / 3
    low, high = measured.mean_answer * (1 - spread), min(measured.mean_answer * (1 + spread), mean_limit)
    return Answers(min(low, high), high, f"an earlier run had {measured.mean_answer:,.0f} on average", measured)


def describe_memory(
    config: RunnerConfig, card: Card, shape: ModelShape | None, demand: Demand, answers: Answers
) -> str:
    if shape is None:
        return "Memory\n  unknown: the model's config.json does not say its shape\n"
    found = fit(card, shape, config.engine, demand.mean_prompt + answers.middle)
    setting = "cpu_kv_cache_gib" if card.is_cpu else "gpu_memory_utilization"
    lines = [f"Memory of {_cards(card, 1)} (engine.{setting}={getattr(config.engine, setting):g})"]
    lines.append(f"  weights {shape.weight_bytes / 1e9:,.1f} GB, KV cache {shape.kv_bytes / 1024:,.0f} KiB a token")
    if not found.sequences:
        lines.append("  they do not fit together: choose a larger card or a smaller model")
        return "\n".join(lines) + "\n"
    lines.append(
        f"  {found.kv_bytes / 1e9:,.1f} GB for {found.kv_tokens:,} tokens of cache: about {found.sequences:,} "
        f"sequences of {demand.mean_prompt + answers.middle:,.0f} tokens"
    )
    running = running_at_once(config, card, shape, demand, answers)
    bound = "engine.max_num_seqs" if running == config.engine.max_num_seqs else "the cache or the number of rows"
    lines.append(f"  {running:,} run at once, bounded by {bound}")
    return "\n".join(lines) + "\n"


def running_at_once(config: RunnerConfig, card: Card, shape: ModelShape, demand: Demand, answers: Answers) -> int:
    """Half of an answer is there on average while it runs."""
    found = fit(card, shape, config.engine, demand.mean_prompt + answers.middle / 2)
    return min(config.engine.max_num_seqs, max(found.sequences, 1), max(int(demand.samples), 1))


def describe_cost(config: RunnerConfig, card: Card, shape: ModelShape | None, demand: Demand, answers: Answers) -> str:
    """Hours and dollars at the limits of the card, and at the speed of the last run."""
    lines = [f"Time and cost ({demand.samples:,.0f} answers of {answers.low:,.0f} to {answers.high:,.0f} tokens"]
    lines[0] += f"; {answers.origin})"
    if shape is not None:
        lines.append(_by_roofline(config, card, shape, demand, answers))
    if answers.measured is not None:
        lines.append(_by_measurement(config, demand, answers, answers.measured))
    if card.is_cpu and config.cost.dollars_per_gpu_hour is not None:
        lines.append("  cost.dollars_per_gpu_hour is of GPUs: the hours of a CPU have no price here")
    if config.cost.dollars_per_gpu_hour is None:
        lines.append("  cost.dollars_per_gpu_hour=... would turn hours into dollars")
    return "\n".join(lines)


def _by_roofline(config: RunnerConfig, card: Card, shape: ModelShape, demand: Demand, answers: Answers) -> str:
    running = running_at_once(config, card, shape, demand, answers)
    few, some, many = (
        seconds_at_limit(_load(demand, mean, config.cost.num_cards), card, shape, running, demand.shared_share)
        for mean in (answers.low, answers.middle, answers.high)
    )
    least, most = card.reached
    spread = few / most, some / math.sqrt(least * most), many / least
    cards = _cards(card, config.cost.num_cards)
    shown = _times(*spread) if card.is_cpu else _range(config, *spread)
    line = f"  by the limits of {cards}: {shown}; runs reach {least:.0%} to {most:.0%} of the limits"
    return line if card.is_cpu else f"{line}\n  and a minute or two to load and compile"


def _cards(card: Card, count: int) -> str:
    """As 2 x H100 80GB SXM; the title of a CPU has its own number."""
    if card.is_cpu:
        return card.title if count == 1 else f"{count} times {card.title}"
    return f"{count} x {card.title}"


def _load(demand: Demand, mean_answer: float, num_cards: int) -> Load:
    """Answers of the wanted mean: each its limit where that is the mean, else as memoryless as answers tend to be."""
    limits = demand.limits
    mean_limit = sum(limits) / len(limits)
    if mean_answer >= 0.99 * mean_limit:
        return Load(demand.prompts, limits, demand.samples / num_cards)
    chance = random.Random(0)
    drawn = [min(limit, 1 + int(chance.expovariate(1 / mean_answer))) for limit in limits]
    return Load(demand.prompts, drawn, demand.samples / num_cards)


def _by_measurement(config: RunnerConfig, demand: Demand, answers: Answers, measured: Measured) -> str:
    """Names the device that was measured, which need not be the card of the estimate; a CPU's hours cost no card's."""
    seconds = demand.samples * answers.middle / measured.tokens_per_second / config.cost.num_cards
    speed = f"{measured.tokens_per_second:,.0f} tokens a second with {measured.model} on {measured.device or 'a CPU'}"
    spread = seconds * (1 - _MEASURED_SPREAD), seconds, seconds * (1 + _MEASURED_SPREAD)
    shown = _range(config, *spread) if measured.device else _times(*spread)
    return f"  by the last run's speed ({one_line(speed, 200)}): {shown}"


def _range(config: RunnerConfig, low: float, middle: float, high: float) -> str:
    """Seconds in words, and in dollars where a rate is given."""
    text = _times(low, middle, high)
    rate = config.cost.dollars_per_gpu_hour
    if rate is None:
        return text
    least, about, most = (seconds / 3600 * config.cost.num_cards * rate for seconds in (low, middle, high))
    return f"{text}, about ${about:,.2f} (${least:,.2f} to ${most:,.2f})"


def _times(low: float, middle: float, high: float) -> str:
    return f"about {duration(middle)} ({duration(low)} to {duration(high)})"
