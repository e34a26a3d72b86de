"""A run's records as series: time without pauses, losses by step, tokens over time; thinned and smoothed for drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from foundray.records.schema import kinds
from foundray.records.traits import Trait

RESIZES = kinds(Trait.RESIZES)
"""Kinds of events that may change the number of workers."""
BESIDE_DRIVER = kinds(Trait.BESIDE_DRIVER)
POINTS = 1200
"""Most points of a drawn series: more are indistinguishable on a page."""
WINDOW = 0.02
"""Share of the steps over which a loss is averaged."""
BINS = 150
"""Intervals of time in which tokens are counted."""

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Clock:
    """Running time: seconds since the first record, without the pauses in which no command ran the run."""

    began: float
    """Seconds since the epoch."""
    commands: np.ndarray
    """Start of each command after the first, in seconds since the epoch."""
    paused: np.ndarray
    """Seconds of pause before each of them."""

    @staticmethod
    def of(events: Records, metrics: Records) -> Clock:
        times = np.sort([record["time"] for record in (*events, *metrics) if record.get("event") not in BESIDE_DRIVER] or [0.0])
        commands = np.array([event["time"] for event in events if event["event"] == "command"][1:])
        before = times[np.maximum(np.searchsorted(times, commands) - 1, 0)]
        return Clock(float(times[0]), commands, np.maximum(commands - before, 0.0))

    def at(self, time: Any) -> Any:
        """Running time at one time, or at several."""
        passed = np.concatenate([[0.0], np.cumsum(self.paused)])
        return np.asarray(time) - self.began - passed[np.searchsorted(self.commands, time, side="right")]


@dataclass(frozen=True)
class Steps:
    """The steps that count: of a repeated step, the last."""

    step: np.ndarray
    loss: np.ndarray
    lr: np.ndarray

    @staticmethod
    def of(metrics: Records) -> Steps:
        last = {record["step"]: record for record in metrics}
        rows = [(step, last[step]["loss"], last[step]["lr"]) for step in sorted(last)]
        step, loss, lr = np.array(rows, np.float64).reshape(-1, 3).T
        return Steps(step, loss, lr)


def window(length: int) -> int:
    """Number of steps in a running mean over a series of this length; odd, so that it has a middle."""
    return max(1, round(length * WINDOW)) // 2 * 2 + 1


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred means of `width` values, of fewer at both ends; values that are not finite are left out."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counted = np.concatenate([[0], np.cumsum(finite)])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - width // 2, 0), np.minimum(middle + width // 2 + 1, len(values))
    known = counted[high] - counted[low]
    return np.where(known > 0, (total[high] - total[low]) / np.maximum(known, 1), np.nan)


def thinned(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` points: the smallest and the largest value of each of equal intervals, so that no extreme is lost."""
    kept = np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(y) <= points:
        return x, y
    edges = np.linspace(0, len(y), points // 2 + 1).astype(int)
    chosen = {low + int(pick(y[low:high])) for low, high in pairwise(edges) for pick in (np.argmin, np.argmax)}
    order = sorted(chosen)
    return x[order], y[order]


def parted(x: np.ndarray, y: np.ndarray, stops: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The series with a NaN at each stop, where the line breaks."""
    at = np.searchsorted(x, stops)
    return np.insert(x, at, stops), np.insert(y, at, np.nan)


def throughput(metrics: Records, clock: Clock, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(edges of equal bins of running time, tokens per second in each), of steps that count."""
    last = {record["step"]: index for index, record in enumerate(metrics)}
    ends = np.maximum.accumulate(clock.at([record["time"] for record in metrics]))
    seconds = np.array([record["step_s"] for record in metrics])
    begins = np.maximum(ends - seconds, np.concatenate([[0.0], ends[:-1]]))
    counts = np.array([tokens if last[record["step"]] == index else 0 for index, record in enumerate(metrics)])
    bins = int(np.clip(ends[-1] / max(8 * float(np.median(seconds)), 1e-9), 1, BINS))
    edges = np.linspace(0.0, max(float(ends[-1]), 1e-9), bins + 1)
    done = np.cumsum(counts)
    moments = np.column_stack([begins, ends]).ravel()
    amounts = np.column_stack([done - counts, done]).ravel()
    return edges, np.diff(np.interp(edges, moments, amounts, left=0.0)) / np.diff(edges)


def worlds(events: Records, clock: Clock) -> tuple[list[float], list[int]]:
    """(running time, workers from then on): a group keeps its size until the next group, or the end."""
    moments, sizes = [], []
    for event in events:
        if event["event"] in RESIZES:
            moments.append(float(clock.at(event["time"])))
            sizes.append(event["workers"] if event["event"] == "workers_started" else 0)
    return moments, sizes
