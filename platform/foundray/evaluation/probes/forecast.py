"""Forecasts of a series: ridge regression from a frozen encoding of the preceding window (Nie et al. 2023, linear probing).

Channels are encoded separately and share one regression. A window is normalised by its own mean and variance, as the series
modality does, and the prediction is scaled back; errors are of values standardised by the training part. The regression
minimises that same error, so windows are weighted by their variance.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt
from torch import Tensor

from foundray.contract import Values
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, read_located_rows
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Pool, Reader, check_pool, features, raw
from foundray.evaluation.probes.task import FeatureTask, Judgement
from foundray.model.model import Batch
from foundray.runs.run import Run
from foundray.spec import SourceConfig

WINDOWS_PER_BATCH = 1024
VARIANCE_FLOOR = 1e-5
"""Added to a window's variance, in standardised values: keeps the targets after a flat window finite."""


class Forecast(FeatureTask):
    """Mean squared error of the next values, predicted from the window before them."""

    kind: Literal["forecast"]
    """The next values of a series."""
    data: SourceConfig
    """One file of series, as in a spec."""
    horizon: PositiveInt
    """Number of steps to predict."""
    split: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Steps of the training, validation and test parts, from the start; a window may reach back into the part before."""
    pool: Pool = "flatten"
    """How a window's hidden states become its features: `mean`, `mean_std`, `last`, `flatten`, or `class` (the class unit's
    state)."""
    penalties: tuple[float, ...] = tuple(10.0 ** (power / 2) for power in range(-2, 13))
    """Ridge penalties to try; the validation part selects one."""

    def judge(self, run: Run) -> Judgement:
        check_pool(run.spec(), self.pool)
        reader = Reader(run)
        if not isinstance(reader.modality, Values) or reader.modality.gives != "series":
            raise InputError("forecast: the run must have learned from series")
        modality = reader.modality
        lookback = reader.length * modality.shape.width
        channels = standardised(whole_series(self.data, modality), self.split[0], sum(self.split))
        starts = self.starts(lookback)
        chosen: dict[str, list[float]] = {"floor": [], "random": [], "ours": []}

        def error(name: str, encode: Callable[[Batch], Tensor], pool: Pool) -> float:
            parts = [self._moments(channels, at, lookback, modality, encode, pool) for at in starts]
            penalty, mse = fitted(parts[0], parts[1], parts[2], self.penalties)
            chosen[name].append(penalty)
            return mse

        seed = run.spec().seed + 1
        return Judgement(
            run=run.folder.url,
            measure="mse",
            higher_is_better=False,
            floor=[error("floor", raw, self.floor or "flatten")],
            random=[error("random", Encoder.untrained(run, seed + s, self.layer), self.pool) for s in range(self.seeds)],
            ours=[error("ours", Encoder.trained(run, self.layer), self.pool)],
            facts={
                "horizon": self.horizon,
                "look-back": lookback,
                "channels": len(channels),
                "windows fitted to": len(channels) * len(starts[0]),
                "tested on": len(channels) * len(starts[2]),
                "penalties": chosen,
            },
        )

    def starts(self, lookback: int) -> list[range]:
        """Starts of the predicted stretches, which lie entirely inside their part. Raises InputError if a part is too short."""
        found, border = [], 0
        for name, steps in zip(("training", "validation", "test"), self.split, strict=True):
            found.append(range(max(border, lookback), border + steps - self.horizon + 1))
            border += steps
            if not found[-1]:
                raise InputError(f"split: the {name} part of {steps} steps is too short for {self.horizon} after {lookback}")
        return found

    def _moments(
        self,
        channels: np.ndarray,
        starts: range,
        lookback: int,
        modality: Values,
        encode: Callable[[Batch], Tensor],
        pool: Pool,
    ) -> Moments:
        moments = Moments()
        for windows, following in _windows(channels, starts, lookback, self.horizon):
            mean, scale = windows.mean(1, keepdims=True), np.sqrt(windows.var(1, keepdims=True) + VARIANCE_FLOOR)
            units = [modality.units({"values": window}, lookback // modality.shape.width, None) for window in windows]
            moments.add(features(encode, units, pool), (following - mean) / scale, scale[:, 0] ** 2)
        return moments


def whole_series(source: SourceConfig, modality: Values) -> np.ndarray:
    """A file's series [channels, steps] float64, joined from the rows that the modality cuts it into.

    Less than a unit at the end is dropped. Raises InputError.
    """
    if len(files := find_files(source, modality.endings)) != 1:
        raise InputError(f"data: a forecast needs one file, and {source.path} has {len(files)}")
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for _, position, row in read_located_rows(files[0], source, modality, 1):
        if isinstance(row, BadRow) and not row.lost:
            continue  # a note, such as which columns were used
        if isinstance(row, BadRow):
            raise InputError(f"data: {source.path}, {row.position}: {row.reason}")
        channel = re.search(r"channel \d+$", position)
        parts[channel[0] if channel else ""].append(np.asarray(row["values"], np.float64))
    return np.stack([np.concatenate(stretches) for stretches in parts.values()])


def standardised(series: np.ndarray, training: int, steps: int) -> np.ndarray:
    """Series [channels, steps], standardised by mean and deviation of its training part. Raises InputError if it is shorter."""
    if series.shape[1] < steps:
        raise InputError(f"split: its parts add up to {steps} steps, and the series has {series.shape[1]}")
    part = series[:, :training].astype(np.float64)
    deviation = part.std(1, keepdims=True)
    result: np.ndarray = (series[:, :steps] - part.mean(1, keepdims=True)) / np.where(deviation == 0, 1, deviation)
    return result.astype(np.float32)


def _windows(channels: np.ndarray, starts: range, lookback: int, horizon: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of windows [n, lookback], with the values that follow them [n, horizon]."""
    for series in channels:
        views = np.lib.stride_tricks.sliding_window_view(series, lookback + horizon)
        rest = iter(starts)
        while some := list(islice(rest, WINDOWS_PER_BATCH)):
            cut = views[some[0] - lookback : some[-1] - lookback + 1]
            yield cut[:, :lookback], cut[:, lookback:]


class Moments:
    """Weighted sums over windows, from which ridge regression and its error follow, without keeping the features."""

    def __init__(self) -> None:
        self.count = 0
        self.weight: Any = 0.0
        """Sum of the weights. The other sums: features [F], targets [H], and their products."""
        self.x: Any = 0.0
        self.y: Any = 0.0
        self.xx: Any = 0.0
        self.xy: Any = 0.0
        self.yy: Any = 0.0

    def add(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        """Add features [n, F], targets [n, H] and weights [n]."""
        root = np.sqrt(weight, dtype=np.float32)[:, None]
        weighted, targets = x * root, y * root
        self.count += y.size
        self.weight += weight.sum(dtype=np.float64)
        self.x += (weighted * root).sum(0, dtype=np.float64)
        self.y += (targets * root).sum(0, dtype=np.float64)
        self.xx += (weighted.T @ weighted).astype(np.float64)
        self.xy += (weighted.T @ targets).astype(np.float64)
        self.yy += (targets**2).sum(dtype=np.float64)

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Centred products of the features [F, F], and of features and targets [F, H]."""
        return self.xx - np.outer(self.x, self.x) / self.weight, self.xy - np.outer(self.x, self.y) / self.weight

    def error(self, slope: np.ndarray, intercept: np.ndarray) -> float:
        """Weighted mean squared error of x @ slope [F, H] + intercept [H]."""
        square = np.sum(slope * (self.xx @ slope)) + self.weight * np.sum(intercept**2) + 2 * self.x @ slope @ intercept
        return float((square - 2 * np.sum(slope * self.xy) - 2 * self.y @ intercept + self.yy) / self.count)


def fitted(training: Moments, validation: Moments, test: Moments, penalties: Sequence[float]) -> tuple[float, float]:
    """The penalty with the least validation error, and the test error with it."""
    # One eigendecomposition of the training products solves the regression for every penalty.
    products, targets = training.centred()
    values, vectors = np.linalg.eigh(products)
    rotated = vectors.T @ targets
    solutions = {}
    for penalty in penalties:
        slope = vectors @ (rotated / (np.maximum(values, 0) + penalty)[:, None])
        solutions[penalty] = slope, (training.y - training.x @ slope) / training.weight
    best = min(penalties, key=lambda penalty: validation.error(*solutions[penalty]))
    return best, test.error(*solutions[best])
