"""`python -m runner.profile job=...`: a slice of a job in both modes; prints figures, writes a trace and a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.cli.entry import main
from runner.config import EngineKind, RunnerConfig
from runner.engine.profiling import Recording, WatchedEngine, read_bandwidth, record, watched_engine
from runner.engine.settings import EngineSettings
from runner.errors import ConfigError
from runner.models import resolve_model
from runner.profile.figures import STAGES, Figures, figures
from runner.profile.picture import can_draw, draw
from runner.profile.requests import first_requests
from runner.profile.trace import mode, write_trace
from runner.report.cards import model_shape
from runner.report.plain import table
from runner.run.backends import choose_backend
from runner.run.plan import Plan
from runner.types import EngineRequest

_USAGE = """\
Runs the first rows of a job twice, with engine.async_batching off and on, and says where the time goes: the device's
busy and idle share, a step against the bandwidth limit, the host's time by stage. Prefix caching is off, so that both
do the same work. Makes no output folder of the job; the device should have nothing else to do.

  python -m runner.profile job=NAME [group=PRESET ...] [key=value ...]

The arguments are those of the run; `python -m runner --help` lists them. Of its own:
  profile.rows=64      requests to run, from the beginning of the input
  profile.steps=200    most steps in each mode; what is not done by then is dropped
  profile.dir=DIR      for trace.json (open it in ui.perfetto.dev), timeline.png and figures.json;
                       default outputs/profile/<job>
The picture needs matplotlib: pip install 'batch-runner[profile]'.

Exit codes: 0 shown, 64 settings or input refused.
"""

_WARM_UP_STEPS = 30


def profile(config: RunnerConfig, origins: dict[str, str]) -> Iterator[str]:
    """The pieces of the report. Raises RunnerError as a run of these settings would."""
    if config.engine.kind is EngineKind.echo:
        raise ConfigError("engine.kind=echo has no steps to profile; use engine=transformers")
    config.engine.enable_prefix_caching = False
    plan = Plan(config, choose_backend(config))
    requests = first_requests(plan, config.profile.rows)
    settings = EngineSettings(resolve_model(config.model), config.model, config.engine)
    engine = watched_engine(settings)
    device = engine.core.stats().device or "the CPU"
    yield f"Profile of {config.job.name}: {config.model.path} on {device}, {len(requests)} requests"
    recordings = _record(engine, requests, config.profile.steps)
    bandwidth = read_bandwidth(engine.recorder.device.torch_device)
    shape = model_shape(plan.backend.model_config, engine.dtype)
    results = [figures(recording, shape, bandwidth) for recording in recordings]
    yield _describe(results, bandwidth)
    yield _write(Path(config.profile.dir or f"outputs/profile/{config.job.name}"), recordings, results, device)


def _record(engine: WatchedEngine, requests: list[EngineRequest], steps: int) -> list[Recording]:
    """First a warm-up as long as a slice: graphs are captured and code is compiled when a step first needs it."""
    core, recorder = engine.core, engine.recorder
    record(core, recorder, requests, True, max(steps, _WARM_UP_STEPS))
    return [record(core, recorder, requests, async_batching, steps) for async_batching in (False, True)]


def _describe(results: list[Figures], bandwidth: float) -> str:
    def line(name: str, value: Callable[[Figures], str]) -> tuple[str, ...]:
        return (name, *(value(result).rjust(9) for result in results))

    rows = [
        ("", *(("async" if result.async_batching else "sync").rjust(9) for result in results)),
        line("steps, of them with prompts", lambda f: f"{f.steps}, {f.prompt_steps}"),
        line("tokens a second", lambda f: f"{f.tokens_per_second:,.0f}"),
        line("device busy", lambda f: f"{f.busy:.2%}"),
        line("device idle", lambda f: f"{f.idle:.2%}"),
        line("  between decode steps", lambda f: "-" if f.steady_idle is None else f"{f.steady_idle:.2%}"),
        line("decode step, median", lambda f: _ms(f.decode_step)),
        line("  at the bandwidth limit", lambda f: _ms(f.limit)),
        line("host busy", lambda f: f"{f.host_busy:.2%}"),
        line("host works, a step, median", lambda f: _ms(sum(f.host.values()))),
    ]
    rows += [line(f"  {stage}", lambda f, stage=stage: _ms(f.host[stage])) for stage in STAGES]  # type: ignore[misc]
    rows.append(line("host waits, a step, median", lambda f: _ms(f.wait)))
    return f"{table(rows)}\n  The limit is that of a large copy on this device: {bandwidth / 1e9:,.0f} GB/s.\n"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"


def _write(folder: Path, recordings: list[Recording], results: list[Figures], device: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    write_trace(folder / "trace.json", recordings)
    values = {mode(recording): result.as_dict() for recording, result in zip(recordings, results, strict=True)}
    (folder / "figures.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    lines = [f"  {folder / 'trace.json'}: open it in ui.perfetto.dev", f"  {folder / 'figures.json'}"]
    if can_draw():
        draw(folder / "timeline.png", recordings, device)
        lines.append(f"  {folder / 'timeline.png'}")
    else:
        lines.append("  no timeline.png: it needs matplotlib (pip install 'batch-runner[profile]')")
    return "\n".join(["Written", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _USAGE, profile))
