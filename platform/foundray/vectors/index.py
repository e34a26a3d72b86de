"""Nearest vectors by FAISS (Douze et al. 2024), from an index in a safetensors file.

An index holds plain arrays: the vectors, sorted into cells, and the cells' centres. It does not use FAISS's own format, whose
reader trusts the file: a folder of vectors may come from anywhere. Up to EXACT_ROWS there is one cell, and a search is exact.
Above, k-means finds the cells, and a search probes the nearest ones (an inverted file: Jégou et al. 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import faiss
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from foundray.errors import InputError
from foundray.storage import Store, sha256

EXACT_ROWS = 1_000_000
"""Most vectors for an exact search."""
PROBED = 16
"""A search probes one cell in this many."""
SAMPLED = 64
"""Vectors per cell that k-means uses."""

Metric = Literal["cosine", "distance"]


@dataclass(frozen=True)
class Index:
    """N vectors of D numbers, sorted into cells."""

    vectors: np.ndarray
    """[N, D] float32."""
    rows: np.ndarray
    """[N] int64: row of the data of each vector."""
    starts: np.ndarray
    """[cells + 1] int64: where each cell begins."""
    centres: np.ndarray
    """[cells, D] float32; empty for one cell."""

    @staticmethod
    def build(vectors: np.ndarray, metric: Metric, exact_rows: int = EXACT_ROWS) -> Index:
        """Build an index of vectors in the order of the data; for cosine they must have length one."""
        count, width = vectors.shape
        if count <= exact_rows:
            none = np.zeros((0, width), np.float32)
            return Index(vectors, np.arange(count), np.array([0, count]), none)
        cells = int(4 * count**0.5)
        means = faiss.Kmeans(
            width,
            cells,
            niter=10,
            seed=1,
            spherical=metric == "cosine",
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLED,
        )
        means.train(vectors)
        cell = means.assign(vectors)[1]
        rows = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[rows], np.arange(cells + 1))
        return Index(vectors[rows], rows, starts, np.asarray(means.centroids))

    @property
    def cells(self) -> int:
        return len(self.starts) - 1

    @property
    def probed(self) -> int:
        """Number of cells that a search probes."""
        return self.cells if self.cells < 2 * PROBED else self.cells // PROBED

    def nearest(self, query: np.ndarray, top: int, metric: Metric) -> list[tuple[int, float]]:
        """(row, cosine or Euclidean distance) of the vectors nearest to `query` [D], the nearest first."""
        kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
        query = np.ascontiguousarray(query[None], np.float32)
        members: np.ndarray | slice = slice(None)
        if self.cells > 1:
            near = faiss.knn(query, self.centres, self.probed, metric=kind)[1][0]
            members = np.concatenate([np.arange(self.starts[cell], self.starts[cell + 1]) for cell in near])
        vectors, rows = self.vectors[members], self.rows[members]
        scores, found = faiss.knn(query, vectors, min(top, len(rows)), metric=kind)
        measured = scores[0] if metric == "cosine" else np.sqrt(np.maximum(scores[0], 0))
        return [(int(rows[at]), float(score)) for at, score in zip(found[0], measured, strict=True)]

    def save(self, file: Store) -> str:
        """Write the index, and return its SHA-256. Raises InputError if it cannot be written."""
        content = safetensors.save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})
        file.write_bytes(content)
        return sha256(content)

    @staticmethod
    def load(file: Store, expected_sha256: str) -> Index:
        """Load an index. Raises InputError if the file is not the one that was written."""
        content = file.read_bytes()
        if sha256(content) != expected_sha256:
            raise InputError(f"{file} is damaged: its SHA-256 is not the recorded one; delete it, and `foundray embed` again")
        try:
            index = Index(**safetensors.load(content))
        except (SafetensorError, TypeError) as error:
            raise InputError(f"{file} is no index: {error}") from None
        if not index._is_sound():
            raise InputError(f"{file} is no index: its arrays do not fit each other; delete it, and `foundray embed` again")
        return index

    def _is_sound(self) -> bool:
        """Whether the arrays have the right shapes and dtypes, and each row occurs once."""
        count, width = self.vectors.shape if self.vectors.ndim == 2 else (-1, -1)
        shapes = [(count, width), (count,), (self.cells + 1,), (self.cells if self.cells > 1 else 0, width)]
        dtypes = [np.dtype(kind) for kind in (np.float32, np.int64, np.int64, np.float32)]
        arrays = [getattr(self, field.name) for field in fields(self)]
        if any(a.shape != shape or a.dtype != kind for a, shape, kind in zip(arrays, shapes, dtypes, strict=True)):
            return False
        ends = self.starts[0] == 0 and self.starts[-1] == count and (np.diff(self.starts) >= 0).all()
        return bool(self.cells > 0 and ends and np.array_equal(np.sort(self.rows), np.arange(count)))
