"""Charts as SVG text, coloured by the page's style sheet. All text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from runner.report.survey import Bin, round_up
from runner.report.throughput import duration

_WIDTH, _HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 26
_MAX_POINTS = 400


def bars(found: Sequence[Bin], label: str) -> str:
    """A bar for each bin."""
    if not found:
        return ""
    top = _nice_top(max(item.count for item in found))
    step = (_WIDTH - _LEFT - _RIGHT) / len(found)
    shapes = []
    for i, item in enumerate(found):
        height = (_HEIGHT - _TOP - _BOTTOM) * item.count / top
        title = f"{item.low:,} to {item.high - 1:,} tokens: {item.count:,}"
        place = f'x="{_LEFT + i * step + 1:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}"'
        shapes.append(
            f'<rect class="bar" {place} width="{max(step - 2, 1):.1f}" height="{height:.1f}">'
            f"<title>{title}</title></rect>"
        )
    ends = ((_LEFT, f"{found[0].low:,}", "start"), (_WIDTH - _RIGHT, f"{found[-1].high - 1:,} tokens", "end"))
    return _chart(label, top, shapes, ends)


def lines(times: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """One line for each series over seconds since the start; the classes line-0, line-1, ... give the colours."""
    if len(times) < 2:
        return ""
    top = _nice_top(max((max(values) for values in series.values()), default=1.0))
    stride = -(-len(times) // _MAX_POINTS)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    span = max(times[-1], 1e-9)
    shapes = []
    for index, (name, values) in enumerate(series.items()):
        points = " ".join(
            f"{_LEFT + width * t / span:.1f},{_HEIGHT - _BOTTOM - height * v / top:.1f}"
            for t, v in zip(times[::stride], values[::stride], strict=True)
        )
        shapes.append(f'<polyline class="line-{index}" points="{points}"><title>{escape(name)}</title></polyline>')
    ends = ((_LEFT, "0 s", "start"), (_WIDTH - _RIGHT, duration(times[-1]), "end"))
    legend = "".join(f'<span class="key-{i}">{escape(name)}</span>' for i, name in enumerate(series))
    return f'{_chart(label, top, shapes, ends)}<p class="legend">{legend}</p>'


def _chart(label: str, top: float, shapes: Sequence[str], ends: Sequence[tuple[float, str, str]]) -> str:
    grid = []
    for part in (0.0, 0.5, 1.0):
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * part:,.4g}</text>')
    marks = [
        f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{escape(text)}</text>' for x, text, anchor in ends
    ]
    body = "".join((*grid, *shapes, *marks))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _nice_top(value: float) -> float:
    return float(round_up(value)) if value > 1 else max(value, 1e-9)
