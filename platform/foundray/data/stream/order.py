"""The global order of samples: a stateless, pure function of (manifest, weights, seed, position).

Position p of the endless training stream names one sample. Two levels keep reads local and make it cheap to start anywhere:
each epoch permutes the row groups of a source, and then the rows inside windows of `WINDOW` such groups. Sources are
interleaved by weight in cycles of `CYCLE` positions. Each source counts its own epochs, and each epoch shows every sample
exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from foundray.data.prepare.manifest import Manifest, group_sizes, groups_in

CYCLE = 4096
WINDOW = 16


@dataclass(frozen=True)
class Address:
    """Locations of samples: parallel arrays, one entry per sample."""

    shard: np.ndarray
    """Index into the manifest's shards."""
    group: np.ndarray
    """Row group inside the shard."""
    row: np.ndarray
    """Row inside the row group."""


def permutation(n: int, *key: int) -> np.ndarray:
    """Permutation of range(n) drawn by `key`, by sorting hashes: the same on every machine and version."""
    with np.errstate(over="ignore"):
        numbers = np.arange(n, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(mix(*key))
        return np.argsort(_scramble(numbers), kind="stable")


def mix(*key: int) -> int:
    """64-bit hash of non-negative integers."""
    state = 0
    for part in key:
        state = _scramble(state + int(part) + _GOLDEN & _BITS)
    return state


_GOLDEN, _BITS = 0x9E3779B97F4A7C15, 2**64 - 1

Bits = TypeVar("Bits", int, np.ndarray)


def _scramble(x: Bits) -> Bits:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014), for an integer or an array of uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _BITS
    return x ^ (x >> 31)


class _SourceOrder:
    """Order of one source's training samples, epoch by epoch."""

    def __init__(self, sizes: np.ndarray, train: int, seed: int, source: int):
        starts = np.cumsum(sizes) - sizes
        kept = starts < train
        self.sizes = np.minimum(sizes, train - starts)[kept]
        self.train, self.key = train, (seed, source)
        self.epoch_groups = lru_cache(4)(self._epoch_groups)
        self.window_rows = lru_cache(8)(self._window_rows)

    def _epoch_groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Row groups in the epoch's order, and the position where each window starts (and the end)."""
        groups = permutation(len(self.sizes), *self.key, epoch)
        ends = np.cumsum(self.sizes[groups])
        return groups, np.concatenate([[0], ends[WINDOW - 1 : -1 : WINDOW], [self.train]])

    def _window_rows(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """(group, row) of each sample in the window, in order."""
        groups = self.epoch_groups(epoch)[0][window * WINDOW : (window + 1) * WINDOW]
        sizes = self.sizes[groups]
        order = permutation(int(sizes.sum()), *self.key, epoch, window)
        rows = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(groups, sizes)[order], rows[order]

    def locate(self, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(group, row) of the source's `ranks`-th samples, counted from the start of the run."""
        group, row = np.empty(len(ranks), np.int64), np.empty(len(ranks), np.int64)
        epochs, inside = np.divmod(ranks, self.train)
        # Group the ranks by epoch and window, so that each permutation is drawn once.
        for epoch in np.unique(epochs):
            starts = self.epoch_groups(int(epoch))[1]
            windows = np.searchsorted(starts, inside, side="right") - 1
            for window in np.unique(windows[epochs == epoch]):
                here = (epochs == epoch) & (windows == window)
                groups, rows = self.window_rows(int(epoch), int(window))
                at = inside[here] - starts[window]
                group[here], row[here] = groups[at], rows[at]
        return group, row


class SampleOrder:
    """Training order (endless) and validation order (one pass) of a prepared data set."""

    def __init__(self, manifest: Manifest, weights: list[float], holdout: float, seed: int):
        self.manifest, self.seed = manifest, seed
        self.counts = apportion(weights, CYCLE)
        self.splits = [manifest.split(source, holdout) for source in range(len(weights))]
        self.sources = []
        self.sizes: list[np.ndarray] = []  # per source: rows of each row group, in file order
        self.groups: list[tuple[np.ndarray, np.ndarray]] = []  # per source: shard, and group in the shard
        for source, (train, _) in enumerate(self.splits):
            of_source = manifest.of_source(source)
            self.sizes.append(group_sizes(of_source, manifest.rows_per_group))
            self.sources.append(_SourceOrder(self.sizes[-1], train, seed, source))
            shards = np.array([i for i, shard in enumerate(manifest.shards) if shard.source == source], np.int64)
            groups = groups_in(of_source, manifest.rows_per_group)
            starts = np.repeat(np.cumsum(groups) - groups, groups)
            self.groups.append((np.repeat(shards, groups), np.arange(len(starts)) - starts))
        self.cycle = lru_cache(8)(self._cycle)

    @property
    def train_samples(self) -> int:
        return sum(train for train, _ in self.splits)

    @property
    def validation_samples(self) -> int:
        return sum(self.validation_sizes)

    @property
    def validation_sizes(self) -> tuple[int, ...]:
        """Samples of each source in the validation split."""
        return tuple(total - train for train, total in self.splits)

    def seen(self, samples: int) -> list[int]:
        """Number of samples per source among the first `samples` of the training stream."""
        number, rest = divmod(samples, CYCLE)
        partial = np.bincount(self.cycle(number)[0][:rest], minlength=len(self.counts))
        return [int(count) for count in number * self.counts + partial]

    def _cycle(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Per position of a cycle: its source, and the number of earlier positions of that source in the cycle."""
        pattern = np.repeat(np.arange(len(self.counts)), self.counts)[permutation(CYCLE, self.seed, 2**32, number)]
        before = np.empty(CYCLE, np.int64)
        for source, count in enumerate(self.counts):
            before[pattern == source] = np.arange(count)
        return pattern, before

    def train(self, first: int, count: int) -> Address:
        """Addresses of positions [first, first + count) of the training stream."""
        cycles, offsets = np.divmod(np.arange(first, first + count), CYCLE)
        source, rank = np.empty(count, np.int64), np.empty(count, np.int64)
        # A position's rank within its source: full cycles before it, then its place in its own cycle.
        for number in np.unique(cycles):
            here = cycles == number
            pattern, before = self.cycle(int(number))
            source[here] = pattern[offsets[here]]
            rank[here] = number * self.counts[source[here]] + before[offsets[here]]
        return self._address(source, lambda s, here: self.sources[s].locate(rank[here]))

    def validation(self, first: int, count: int) -> Address:
        """Addresses of positions [first, first + count) of the validation split: source by source, in file order."""
        sizes = np.array([total - train for train, total in self.splits])
        starts = np.cumsum(sizes) - sizes
        positions = np.arange(first, min(first + count, int(sizes.sum())))
        source = np.searchsorted(starts, positions, side="right") - 1

        def locate(s: int, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            index = positions[here] - starts[s] + self.splits[s][0]
            ends = np.cumsum(self.sizes[s])
            group = np.searchsorted(ends, index, side="right")
            return group, index - (ends - self.sizes[s])[group]

        return self._address(source, locate)

    def _address(self, source: np.ndarray, locate) -> Address:
        shard, group, row = (np.empty(len(source), np.int64) for _ in range(3))
        for s in np.unique(source):
            here = source == s
            of_source, row[here] = locate(int(s), here)
            shard[here], group[here] = (column[of_source] for column in self.groups[s])
        return Address(shard, group, row)

    def ids(self, address: Address) -> list[str]:
        """Name of each sample: its shard's name, and its row in the shard."""
        rows = address.group * self.manifest.rows_per_group + address.row
        names = [shard.file.removeprefix("shards/").removesuffix(".parquet") for shard in self.manifest.shards]
        return [f"{names[s]}:{r}" for s, r in zip(address.shard, rows, strict=True)]


def apportion(weights: list[float], seats: int) -> np.ndarray:
    """Divide `seats` by weight, by largest remainder, with at least one each."""
    exact = np.array(weights) / sum(weights) * (seats - len(weights))
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: seats - len(weights) - counts.sum()]] += 1
    return counts + 1
