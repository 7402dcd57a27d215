"""A picture of a few steps: host and streams as lanes, the turns of one mode above the overlap of the other."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.engine.profiling import Recording, StepSpan
from runner.profile.trace import lanes, mode

_SHOWN_STEPS = 5
_THINNEST = 1 / 800  # of the picture's width: over a pixel, or a short copy is not seen
_COLOURS = {
    "schedule": "#4c78a8",
    "packet": "#72b7b2",
    "launch": "#9ecae9",
    "wait": "#d9d9d9",
    "accept": "#f2cf5b",
    "h2d": "#b279a2",
    "compute": "#54a24b",
    "prompts": "#88d27a",
    "d2h": "#e45756",
}
_TITLES = {
    "host": "host",
    "h2d": "copy in (H2D)",
    "compute": "compute",
    "prompts": "compute, prompts",
    "d2h": "copy out (D2H)",
}


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(path: Path, recordings: Sequence[Recording], device: str) -> None:
    """Writes a PNG; needs matplotlib. Both modes share one scale, so that the shorter one is seen to be shorter."""
    from matplotlib.figure import Figure  # an optional extra

    windows = [_window(recording) for recording in recordings]
    width = max(stop - start for start, stop in windows)
    rows = [len(lanes(recording)) for recording in recordings]
    figure = Figure(figsize=(13, 0.6 * sum(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(recordings), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axis, recording, (start, _) in zip(axes, recordings, windows, strict=True):
        _draw_mode(axis, recording, start, width)
    axes[-1].set_xlabel("milliseconds")
    figure.suptitle(f"{_SHOWN_STEPS} steps on {device}")
    _legend(figure)
    figure.savefig(path, dpi=110)


def _draw_mode(axis: Any, recording: Recording, start: float, width: float) -> None:
    shown_lanes = lanes(recording)[::-1]
    for row, lane in enumerate(shown_lanes):
        spans = [span for span in recording.spans if span.lane == lane and span.name in _COLOURS]
        shown = [span for span in spans if span.end > start and span.start < start + width]
        axis.broken_barh(
            [((span.start - start) * 1e3, max(span.seconds, width * _THINNEST) * 1e3) for span in shown],
            (row - 0.38, 0.76),
            facecolors=[_COLOURS[span.name] for span in shown],
            edgecolors="white",
            linewidth=0.6 if any(isinstance(span, StepSpan) for span in shown) else 0.0,
        )
    axis.set_yticks(range(len(shown_lanes)), [_TITLES[lane] for lane in shown_lanes])
    axis.set_xlim(0, width * 1e3)
    axis.set_ylim(-0.6, len(shown_lanes) - 0.4)
    axis.set_title(mode(recording), loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)


def _window(recording: Recording) -> tuple[float, float]:
    """From the launch before a decode step of the recording's middle to the end of the last step shown."""
    compute = recording.compute
    count = min(_SHOWN_STEPS, len(compute))
    decode = [i for i, span in enumerate(compute) if not span.step.prompt_tokens]
    first = min(decode[len(decode) // 2] if decode else 0, len(compute) - count)
    shown = compute[first : first + count]
    lead = shown[0].start - compute[first - 1].end if first else 0.0
    end = max(span.end for span in shown)
    return shown[0].start - max(lead, 0.05 * (end - shown[0].start)), end


def _legend(figure: Any) -> None:
    from matplotlib.patches import Patch  # an optional extra

    stages = [Patch(color=_COLOURS[name], label=name) for name in ("schedule", "packet", "launch", "wait", "accept")]
    figure.legend(handles=stages, loc="outside lower center", ncols=len(stages), frameon=False, title="host stages")
