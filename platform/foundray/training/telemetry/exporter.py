"""Tells Ray's metrics a run's numbers, in a thread of its own, so that a step pays next to nothing for it.

Ray's node agent serves them to Prometheus. A gauge that is not told anew is gone after twice Ray's reporting interval, so all
are told again and again; those of a driver that died or ended go by themselves. Counters stay until the node goes. Numbers that
are not finite do not come through.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PREFIX = "foundray_"
BEAT_SECONDS = 1.0
BUCKETS = [base * 10.0**power for power in range(-2, 3) for base in (1, 2, 5)]
"""Upper bounds of a histogram, in seconds: Ray keeps counts only, and takes every value for the middle of its bucket."""

Key = tuple[str, str]
"""A metric's name, and the value of its own tag if it has one."""


@dataclass(frozen=True)
class Reading:
    values: dict[Key, float]
    """Of gauges; of counters, all told since the start."""
    observed: dict[str, list[float]]
    """Of histograms, since the last reading."""


class Exporter:
    def __init__(self, run: str, metrics: Mapping[str, Any], read: Callable[[bool], Reading]):
        """`metrics` are `Metric`s by name. `read` is called in the exporter's thread; it is told when for the last time."""
        self.run, self.metrics, self.read = run, metrics, read
        self.made: dict[str, Any] = {}
        self.counted: dict[Key, float] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat_on, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Tell the last numbers."""
        self.over.set()
        self.thread.join(BEAT_SECONDS)

    def _beat_on(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            self._beat(last=False)
        self._beat(last=True)

    def _beat(self, last: bool) -> None:
        with suppress(Exception):  # numbers for onlookers never stop a run
            reading = self.read(last)
            for (name, tag), value in reading.values.items():
                self._tell(name, tag, value)
            for name, values in reading.observed.items():
                for value in values:
                    self._made(name).observe(value, self._tags(name, ""))

    def _tell(self, name: str, tag: str, value: float) -> None:
        if not math.isfinite(value):
            return
        if self.metrics[name].kind == "gauge":
            self._made(name).set(value, self._tags(name, tag))
            return
        before = self.counted.get((name, tag), 0.0)
        more = value - before if value >= before else value  # whoever counts may have started anew
        if more:
            self._made(name).inc(more, self._tags(name, tag))
        self.counted[name, tag] = value

    def _tags(self, name: str, tag: str) -> dict[str, str]:
        own = self.metrics[name].tag
        return {"run": self.run, **({own: tag} if own else {})}

    def _made(self, name: str) -> Any:
        if name not in self.made:
            from ray.util import metrics

            metric = self.metrics[name]
            keys = ("run", metric.tag) if metric.tag else ("run",)
            kind = {"gauge": metrics.Gauge, "counter": metrics.Counter, "histogram": metrics.Histogram}[metric.kind]
            options = {"boundaries": BUCKETS} if metric.kind == "histogram" else {}
            self.made[name] = kind(f"{PREFIX}{name}", metric.text, tag_keys=keys, **options)
        return self.made[name]
