"""A snapshot of a run in words: a few lines that stay in place on a terminal, or one line for a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.report.plain import one_line
from runner.report.throughput import duration

PHASE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "read": "reading",
        "render": "rendering",
        "finish": "finishing answers",
        "write": "writing",
        "wait": "waiting for the engine",
    }
)
_SHOWN_ERRORS = 4
_SHOWN_SHARE = 0.005
_BAR_WIDTH = 40


def log_line(seen: dict[str, Any]) -> str:
    """Everything that matters on one line, the bottleneck last."""
    parts = [
        f"{seen['done_rows']:,}/{seen['total_rows']:,} rows",
        speed(seen),
        queue(seen),
        cache(seen),
        times(seen),
        card(seen),
        failures(seen),
    ]
    if seen["seconds_left"] is not None:
        parts.append(f"ETA {duration(seen['seconds_left'])}")
    if seen["bottleneck"]:
        parts.append(f"bottleneck: {seen['bottleneck']}")
    return ", ".join(filter(None, parts))


def speed(seen: dict[str, Any]) -> str:
    return f"{seen['prompt_tokens_per_second']:,.0f} in + {seen['completion_tokens_per_second']:,.0f} out tok/s"


def queue(seen: dict[str, Any]) -> str:
    running, waiting = seen["engine"]["num_running"], seen["engine"]["num_waiting"]
    return f"{running:,} running (batch {seen['batch_fill']:.0%} full), {waiting:,} waiting"


def cache(seen: dict[str, Any]) -> str:
    """Nothing for an engine without a KV cache."""
    engine = seen["engine"]
    if not engine["kv_blocks_total"]:
        return ""
    parts = [f"KV {engine['kv_blocks_used'] / engine['kv_blocks_total']:.0%}"]
    if engine["cached_tokens"]:
        parts.append(f"prefix hits {engine['cached_tokens'] / (engine['cached_tokens'] + engine['prompt_tokens']):.0%}")
    if engine["preemptions"]:
        parts.append(f"{engine['preemptions']:,} preemptions")
    return ", ".join(parts)


def failures(seen: dict[str, Any]) -> str:
    """Codes may come from a user's job: they are shown as text."""
    if not seen["failed_rows"]:
        return ""
    codes = sorted(seen["errors"].items(), key=lambda item: -item[1])[:_SHOWN_ERRORS]
    return f"{seen['failed_rows']:,} failed ({', '.join(f'{one_line(code, 30)} {count:,}' for code, count in codes)})"


def quality(seen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {rate:.0%}" for name, rate in seen["quality"].items() if rate > 0)


def times(seen: dict[str, Any]) -> str:
    """Where the time of the engine went; nothing before it took any."""
    usage = seen["usage"]
    parts = (("prefill", "prefill"), ("decode", "decode"), ("host", "host"), ("io", "I/O"))
    return ", ".join(f"{name} {usage[key]:.0%}" for key, name in parts) if any(usage[key] for key, _ in parts) else ""


def card(seen: dict[str, Any]) -> str:
    """How much of the card is used; nothing on a CPU."""
    if not seen["engine"]["device"]:
        return ""
    usage = seen["usage"]
    parts = [f"GPU idle {usage['host'] + usage['io']:.0%}"]
    if usage["flops"] is not None:
        parts.append(f"MFU {usage['flops']:.0%}")
    if usage["bandwidth"] is not None:
        parts.append(f"memory bandwidth {usage['bandwidth']:.0%}")
    return ", ".join(parts)


def phases(seen: dict[str, Any]) -> str:
    """What this process does; the engine's is another one."""
    found = ((name, seen["phases"].get(phase, 0.0)) for phase, name in PHASE_NAMES.items())
    return ", ".join(f"{name} {share:.0%}" for name, share in found if share >= _SHOWN_SHARE)


class TerminalView:
    """Redraws its lines in place; what is logged meanwhile goes above them."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, transient=False)
        self._live.start()
        self._began = time.monotonic()

    def draw(self, seen: dict[str, Any]) -> None:
        self._live.update(Group(self._bar(seen), self._lines(seen)), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _bar(self, seen: dict[str, Any]) -> Table:
        total, done = max(seen["total_rows"], 1), seen["done_rows"]
        left = f"ETA {duration(seen['seconds_left'])}" if seen["seconds_left"] is not None and done < total else ""
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(
                total=total, completed=done, width=min(_BAR_WIDTH, self._console.width // 3), complete_style="cyan"
            ),
            Text(f"{done:,}/{seen['total_rows']:,} rows, {done / total:.0%}"),
            Text(duration(time.monotonic() - self._began), style="dim"),
            Text(left, style="bold"),
        )
        return row

    def _lines(self, seen: dict[str, Any]) -> Table:
        lines = Table.grid(padding=(0, 2))
        found = (
            ("speed", speed(seen), ""),
            ("engine", ", ".join(filter(None, (queue(seen), cache(seen)))), ""),
            ("engine time", times(seen), ""),
            ("card", card(seen), ""),
            ("this process", phases(seen), ""),
            ("answers", quality(seen), "yellow"),
            ("errors", failures(seen), "red"),
            ("bottleneck", seen["bottleneck"], "bold"),
        )
        for label, text, style in found:
            if text:
                lines.add_row(Text(label, style="dim"), Text(text, style=style))
        return lines
