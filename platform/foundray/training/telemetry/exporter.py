"""Exports a run's numbers to Ray's metrics from a separate thread, so that a step pays almost nothing for it.

Ray's node agent serves them to Prometheus. A gauge that is not set again disappears after twice Ray's reporting interval, so
all are set repeatedly; those of a driver that died or ended disappear by themselves. Counters stay until the node goes.
Non-finite numbers are not exported.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PREFIX = "foundray_"
EXPORT_SECONDS = 1.0
BUCKETS = [base * 10.0**power for power in range(-2, 3) for base in (1, 2, 5)]
"""Upper bounds of a histogram, in seconds: Ray keeps only counts, and takes every value for the middle of its bucket."""

Key = tuple[str, str]
"""A metric's name, and the value of its own tag, if any."""


@dataclass(frozen=True)
class Reading:
    values: dict[Key, float]
    """Values of gauges; totals of counters since the start."""
    observed: dict[str, list[float]]
    """Values of histograms since the last reading."""


class Exporter:
    def __init__(self, run: str, metrics: Mapping[str, Any], read: Callable[[bool], Reading]):
        """`metrics` are `Metric`s by name. The exporter's thread calls `read`; its argument marks the last call."""
        self.run, self.metrics, self.read = run, metrics, read
        self.created: dict[str, Any] = {}
        self.last_counts: dict[Key, float] = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Export the last numbers and stop."""
        self.stopped.set()
        self.thread.join(EXPORT_SECONDS)

    def _run(self) -> None:
        while not self.stopped.wait(EXPORT_SECONDS):
            self._export(last=False)
        self._export(last=True)

    def _export(self, last: bool) -> None:
        with suppress(Exception):  # numbers for onlookers never stop a run
            reading = self.read(last)
            for (name, tag), value in reading.values.items():
                self._export_value(name, tag, value)
            for name, values in reading.observed.items():
                for value in values:
                    self._metric(name).observe(value, self._tags(name, ""))

    def _export_value(self, name: str, tag: str, value: float) -> None:
        if not math.isfinite(value):
            return
        if self.metrics[name].kind == "gauge":
            self._metric(name).set(value, self._tags(name, tag))
            return
        before = self.last_counts.get((name, tag), 0.0)
        increase = value - before if value >= before else value  # the process that counts may have restarted
        if increase:
            self._metric(name).inc(increase, self._tags(name, tag))
        self.last_counts[name, tag] = value

    def _tags(self, name: str, tag: str) -> dict[str, str]:
        own = self.metrics[name].tag
        return {"run": self.run, **({own: tag} if own else {})}

    def _metric(self, name: str) -> Any:
        if name not in self.created:
            from ray.util import metrics

            metric = self.metrics[name]
            keys = ("run", metric.tag) if metric.tag else ("run",)
            kind = {"gauge": metrics.Gauge, "counter": metrics.Counter, "histogram": metrics.Histogram}[metric.kind]
            options = {"boundaries": BUCKETS} if metric.kind == "histogram" else {}
            self.created[name] = kind(f"{PREFIX}{name}", metric.text, tag_keys=keys, **options)
        return self.created[name]
