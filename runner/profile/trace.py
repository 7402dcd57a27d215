"""A trace that chrome://tracing and ui.perfetto.dev open: one process a mode, one thread a lane.

Format: the Trace Event Format's complete events ("X") and metadata ("M"), times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.engine.profiling import COMPUTE, HOST, PROMPTS, Recording, StepSpan

_LANES = (HOST, "h2d", COMPUTE, PROMPTS, "d2h")


def mode(recording: Recording) -> str:
    return "async" if recording.async_batching else "sync"


def lanes(recording: Recording) -> list[str]:
    """In the order in which they are shown; prompts have one only where they are computed beside rows."""
    used = {span.lane for span in recording.spans}
    return [lane for lane in _LANES if lane != PROMPTS or lane in used]


def write_trace(path: Path, recordings: Sequence[Recording]) -> None:
    events = [event for process, recording in enumerate(recordings, 1) for event in _events(process, recording)]
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def _events(process: int, recording: Recording) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": mode(recording)}}
    threads = {lane: thread for thread, lane in enumerate(lanes(recording))}
    for lane, thread in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": lane}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": thread, "args": {"sort_index": thread}}
    for span in recording.spans:
        event = {"ph": "X", "name": span.name, "pid": process, "tid": threads[span.lane]}
        event |= {"ts": span.start * 1e6, "dur": span.seconds * 1e6}
        if isinstance(span, StepSpan):
            step = span.step
            event["name"] = "prefill" if step.prompt_tokens else "decode"
            event["args"] = {
                "decode_rows": step.decode_rows,
                "context_tokens": step.context_tokens,
                "prompt_tokens": step.prompt_tokens,
            }
        yield event
