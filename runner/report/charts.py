"""Charts as SVG text, coloured by the page's style sheet. All text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from runner.report.survey import Bin, round_up
from runner.report.throughput import duration

_WIDTH, _HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 26
_GRID = (0.0, 0.5, 1.0)
_MAX_POINTS = 400


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
    return _chart(label, shapes, ends, [f"{top * part:,.4g}" for part in _GRID])


def lines(times: Sequence[float], series: Mapping[str, Sequence[float]], label: str, percent: bool = False) -> str:
    """One line for each series over seconds since the start; the classes line-0, line-1, ... give the colours."""
    if len(times) < 2:
        return ""
    top = _nice_top(max((max(values) for values in series.values()), default=1.0))
    shapes = []
    for index, (name, values) in enumerate(series.items()):
        points = _points(times, [value / top for value in values])
        shapes.append(f'<polyline class="line-{index}" points="{points}"><title>{escape(name)}</title></polyline>')
    steps = [f"{top * part:.3g}%" if percent else f"{top * part:,.4g}" for part in _GRID]
    return _over_time(label, times, shapes, series, steps)


def percents(times: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """As `lines`, of shares."""
    return lines(times, {name: [100 * value for value in values] for name, values in series.items()}, label, True)


def areas(times: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """Shares of a whole, one on top of the other, over seconds since the start; the classes area-0, area-1, ..."""
    if len(times) < 2:
        return ""
    floor = [0.0] * len(times)
    shapes = []
    for index, (name, values) in enumerate(series.items()):
        top = [min(low + value, 1.0) for low, value in zip(floor, values, strict=True)]
        outline = f"{_points(times, top)} {_points(times, floor, backwards=True)}"
        shapes.append(f'<polygon class="area-{index}" points="{outline}"><title>{escape(name)}</title></polygon>')
        floor = top
    return _over_time(label, times, shapes, series, [f"{part:.0%}" for part in _GRID])


def _points(times: Sequence[float], heights: Sequence[float], backwards: bool = False) -> str:
    """``heights`` are parts of the chart's; at most so many points that the page stays small."""
    stride = -(-len(times) // _MAX_POINTS)
    width, height, span = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM, max(times[-1], 1e-9)
    pairs = list(zip(times, heights, strict=True))
    kept = [*pairs[:-1:stride], pairs[-1]]
    return " ".join(
        f"{_LEFT + width * time / span:.1f},{_HEIGHT - _BOTTOM - height * part:.1f}"
        for time, part in (reversed(kept) if backwards else kept)
    )


def _over_time(
    label: str, times: Sequence[float], shapes: Sequence[str], names: Iterable[str], steps: Sequence[str]
) -> str:
    ends = ((_LEFT, "0 s", "start"), (_WIDTH - _RIGHT, duration(times[-1]), "end"))
    legend = "".join(f'<span class="key-{i}">{escape(name)}</span>' for i, name in enumerate(names))
    return f'{_chart(label, shapes, ends, steps)}<p class="legend">{legend}</p>'


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


def _nice_top(value: float) -> float:
    return float(round_up(value)) if value > 1 else max(value, 1e-9)
