"""The figures of a run for Prometheus, at http://ADDRESS:PORT/metrics. Needs the extra `prometheus`.

A scrape is answered in a thread of its own from the last snapshot: the run does nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from runner.errors import ConfigError

logger = logging.getLogger(__name__)

_COUNTERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "rows": ("rows", "Rows finished by this run"),
        "failed_rows": ("failed_rows", "Rows that ended in errors"),
        "samples": ("samples", "Answers finished"),
    }
)
_ENGINE_COUNTERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prompt_tokens": ("prompt_tokens", "Prompt tokens computed"),
        "cached_tokens": ("cached_tokens", "Prompt tokens found in the prefix cache"),
        "completion_tokens": ("completion_tokens", "Tokens generated"),
        "preemptions": ("preemptions", "Sequences that had to make room"),
        "steps": ("engine_steps", "Steps of the engine"),
        "prefill_seconds": ("prefill_seconds", "Device time of prompts"),
        "decode_seconds": ("decode_seconds", "Device time of decode steps"),
    }
)
_GAUGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "done_rows": ("done_rows", "Rows finished by all runs of the job"),
        "total_rows": ("total_rows", "Rows of the job"),
        "batch_fill": ("batch_fill_ratio", "Running sequences by engine.max_num_seqs"),
        "seconds_left": ("left_seconds", "Estimated time left"),
        "prompt_tokens_per_second": ("prompt_tokens_per_second", "Over the last minute"),
        "completion_tokens_per_second": ("completion_tokens_per_second", "Over the last minute"),
    }
)
_ENGINE_GAUGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "num_running": ("num_running", "Sequences that run"),
        "num_waiting": ("num_waiting", "Sequences that wait in the engine"),
        "kv_blocks_used": ("kv_blocks_used", "Blocks of the KV cache in use"),
        "kv_blocks_total": ("kv_blocks", "Blocks of the KV cache"),
    }
)
_PREFIX = "batch_runner_"


class ScrapePoint:
    """Answers scrapes with what it was shown last. Measuring never ends a run: a port that is taken is a warning."""

    def __init__(self, address: str, port: int, job: str) -> None:
        """Raises ConfigError without the library; ``port`` 0 takes a free one. ``job`` labels every figure."""
        if find_spec("prometheus_client") is None:
            raise ConfigError(
                f"metrics.port={port}: needs the extra prometheus; pip install prometheus-client, or leave it out"
            )
        from prometheus_client import CollectorRegistry, start_http_server

        self._job = job
        self._seen: Mapping[str, Any] = {}
        self._server: Any = None
        self.port: int | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            logger.warning("metrics.port=%d: %s; there is nothing to scrape", port, error.strerror)
            return
        self.port = self._server.server_port
        logger.info("metrics for Prometheus: http://%s:%d/metrics", address, self.port)

    def show(self, seen: Mapping[str, Any]) -> None:
        """Takes a snapshot of `runner.report.meter.Meter`; it must not be changed afterwards."""
        self._seen = seen

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def collect(self) -> Iterator[Any]:
        """The metrics of the last snapshot; none before the first."""
        seen = self._seen
        if not seen:
            return
        engine = seen["engine"]
        yield from self._counters(seen, _COUNTERS)
        yield from self._counters(engine, _ENGINE_COUNTERS)
        yield from self._gauges(seen, _GAUGES)
        yield from self._gauges(engine, _ENGINE_GAUGES)
        yield self._counter("errors", "Records in errors, by code", "code", seen["errors"])
        yield self._counter("bad_samples", "Answers that a guard counts, by its name", "kind", seen["quality_totals"])
        yield self._gauge("bad_samples_ratio", "Their share of the latest answers", "kind", seen["quality"])
        yield self._gauge("time_ratio", "Shares of the time: prefill, decode, host, io", "part", _time(seen["usage"]))
        yield self._gauge("process_time_ratio", "Shares of this process's time", "phase", seen["phases"])
        if engine["device"]:
            yield self._gauge("card_ratio", "Of the card: idle time, used flops and bandwidth", "of", _card(seen))

    def _counters(self, values: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> Iterator[Any]:
        for key, (name, help) in names.items():
            yield self._counter(name, help, None, {"": values[key]})

    def _gauges(self, values: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> Iterator[Any]:
        for key, (name, help) in names.items():
            yield self._gauge(name, help, None, {"": values[key]})

    def _counter(self, name: str, help: str, label: str | None, values: Mapping[str, Any]) -> Any:
        from prometheus_client.core import CounterMetricFamily

        return self._filled(CounterMetricFamily(_PREFIX + name, help, labels=self._labels(label)), label, values)

    def _gauge(self, name: str, help: str, label: str | None, values: Mapping[str, Any]) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        return self._filled(GaugeMetricFamily(_PREFIX + name, help, labels=self._labels(label)), label, values)

    def _labels(self, label: str | None) -> list[str]:
        return ["job_name"] if label is None else ["job_name", label]

    def _filled(self, family: Any, label: str | None, values: Mapping[str, Any]) -> Any:
        """What is not known has no value."""
        for key, value in values.items():
            if value is not None:
                family.add_metric([self._job] if label is None else [self._job, key], value)
        return family


def _time(usage: Mapping[str, Any]) -> dict[str, float]:
    return {part: usage[part] for part in ("prefill", "decode", "host", "io")}


def _card(seen: Mapping[str, Any]) -> dict[str, float | None]:
    usage = seen["usage"]
    return {"idle": usage["host"] + usage["io"], "flops": usage["flops"], "bandwidth": usage["bandwidth"]}
