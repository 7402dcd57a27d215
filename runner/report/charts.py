"""Charts as SVG text, coloured by the page's style sheet. All text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape

from runner.report.survey import Bin, round_up
from runner.report.throughput import duration
from runner.report.timeline import Axis, Curve, Stop

_WIDTH, _HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 26  # a phone shows the words of the axes half as large again
_GRID = (0.0, 0.5, 1.0)


def bars(found: Sequence[Bin], label: str) -> str:
    """A bar for each bin, as wide as the others also where its bin is wider."""
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
    last = found[-1]
    is_wider = last.high - last.low > found[0].high - found[0].low
    words = f"last bar: {last.low:,} to {last.high - 1:,} tokens" if is_wider else f"{last.high - 1:,} tokens"
    ends = ((_LEFT, f"{found[0].low:,}", "start"), (_WIDTH - _RIGHT, words, "end"))
    return _chart(label, shapes, ends, [_tick(top * part) for part in _GRID])


def lines(axis: Axis, series: Mapping[str, Curve], label: str, percent: bool = False) -> str:
    """One line for each series over the axis; the classes line-0, line-1, ... give the colours."""
    if len(axis.times) < 2:
        return ""
    top = _nice_top(max((value for values in series.values() for value in values if value is not None), default=1.0))
    shapes = []
    for index, (name, values) in enumerate(series.items()):
        for piece in _pieces(axis, [None if value is None else value / top for value in values]):
            points = _points(axis, piece)
            shapes.append(f'<polyline class="line-{index}" points="{points}"><title>{escape(name)}</title></polyline>')
    steps = [f"{top * part:.3g}%" if percent else _tick(top * part) for part in _GRID]
    return _over_time(label, axis, shapes, series, steps)


def percents(axis: Axis, series: Mapping[str, Curve], label: str) -> str:
    """As `lines`, of shares."""
    shown = {name: [None if value is None else 100 * value for value in values] for name, values in series.items()}
    return lines(axis, shown, label, True)


def areas(axis: Axis, series: Mapping[str, Curve], label: str) -> str:
    """Shares of a whole, one on top of the other; the classes area-0, area-1, ..."""
    if len(axis.times) < 2:
        return ""
    floor = [0.0] * len(axis.times)
    shapes = []
    for index, (name, values) in enumerate(series.items()):
        top = [None if value is None else min(low + value, 1.0) for low, value in zip(floor, values, strict=True)]
        for piece in _pieces(axis, top):
            below = [(time, floor[place]) for time, _, place in reversed(piece)]
            outline = f"{_points(axis, piece)} {_points(axis, below)}"
            shapes.append(f'<polygon class="area-{index}" points="{outline}"><title>{escape(name)}</title></polygon>')
        floor = [value or 0.0 for value in top]
    return _over_time(label, axis, shapes, series, [f"{part:.0%}" for part in _GRID])


def _pieces(axis: Axis, heights: Curve) -> list[list[tuple[float, float, int]]]:
    """(time, part of the chart's height, place in the curve) of each piece between two stops."""
    found: list[list[tuple[float, float, int]]] = [[]]
    for place, (time, height) in enumerate(zip(axis.times, heights, strict=True)):
        if height is None:
            found.append([])
        else:
            found[-1].append((time, height, place))
    return [piece for piece in found if piece]


def _points(axis: Axis, places: Iterable[tuple[float, float] | tuple[float, float, int]]) -> str:
    height = _HEIGHT - _TOP - _BOTTOM
    return " ".join(f"{_across(axis, time):.1f},{_HEIGHT - _BOTTOM - height * part:.1f}" for time, part, *_ in places)


def _across(axis: Axis, time: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * time / max(axis.times[-1], 1e-9)


def _over_time(label: str, axis: Axis, shapes: Sequence[str], names: Iterable[str], steps: Sequence[str]) -> str:
    ends = ((_LEFT, "0 s", "start"), (_WIDTH - _RIGHT, duration(axis.seconds), "end"))
    keys = [f'<span class="key-{i}">{escape(name)}</span>' for i, name in enumerate(names)]
    legend = f'<p class="legend">{"".join(keys)}</p>' if len(keys) > 1 else ""
    return f"{_chart(label, [*map(partial(_stop, axis), axis.stops), *shapes], ends, steps)}{legend}"


def _stop(axis: Axis, stop: Stop) -> str:
    """A band as wide as the stop is drawn, at least a line; it says how long the stop was."""
    left, right = _across(axis, stop.start), _across(axis, stop.end)
    place = f'x="{left:.1f}" y="{_TOP}" width="{max(right - left, 1.5):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"'
    return f'<rect class="stop" {place}><title>nothing ran for {duration(stop.seconds)}</title></rect>'


def _chart(label: str, shapes: Sequence[str], ends: Sequence[tuple[float, str, str]], steps: Sequence[str]) -> str:
    """``steps`` are the words at the lines of the grid, from the bottom."""
    grid = []
    for part, step in zip(_GRID, steps, strict=True):
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{step}</text>')
    marks = [
        f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{escape(text)}</text>' for x, text, anchor in ends
    ]
    body = "".join((*shapes, *grid, *marks))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _tick(value: float) -> str:
    """Short enough to stand beside the axis."""
    return f"{value:,.4g}" if value < 1e4 else f"{value / 1e3:,.4g}k" if value < 1e6 else f"{value / 1e6:,.4g}M"


def _nice_top(value: float) -> float:
    return float(round_up(value)) if value > 1 else max(value, 1e-9)
