"""Nearest vectors, by FAISS (Douze et al. 2024), from an index that is a safetensors file.

An index is plain arrays: the vectors, sorted into cells, and the cells' centres. FAISS's own format is not used: its reader
trusts what a file says of itself, and a folder of vectors may come from anywhere. Up to EXACT_ROWS there is one cell, and a
search is exact; beyond, k-means finds the cells, and a search looks into the nearest (an inverted file: Jégou et al. 2011).
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
"""Up to so many, all are looked at."""
PROBED = 16
"""One cell in so many is looked into."""
SAMPLED = 64
"""Vectors of each cell that k-means looks at."""

Metric = Literal["cosine", "distance"]


@dataclass(frozen=True)
class Index:
    """N vectors of D numbers, sorted into cells."""

    vectors: np.ndarray
    """[N, D] float32."""
    rows: np.ndarray
    """[N] int64: which row of the data each is."""
    starts: np.ndarray
    """[cells + 1] int64: where each cell begins."""
    centres: np.ndarray
    """[cells, D] float32; none where there is one cell."""

    @staticmethod
    def build(vectors: np.ndarray, metric: Metric, exact_rows: int = EXACT_ROWS) -> Index:
        """Of vectors in the order of the data; those that are compared by cosine have length one."""
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
        """Cells that a search looks into."""
        return self.cells if self.cells < 2 * PROBED else self.cells // PROBED

    def nearest(self, query: np.ndarray, top: int, metric: Metric) -> list[tuple[int, float]]:
        """(row, cosine or Euclidean distance) of those nearest to a vector [D], the nearest first."""
        kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
        query = np.ascontiguousarray(query[None], np.float32)
        where: np.ndarray | slice = slice(None)
        if self.cells > 1:
            near = faiss.knn(query, self.centres, self.probed, metric=kind)[1][0]
            where = np.concatenate([np.arange(self.starts[cell], self.starts[cell + 1]) for cell in near])
        vectors, rows = self.vectors[where], self.rows[where]
        scores, found = faiss.knn(query, vectors, min(top, len(rows)), metric=kind)
        measured = scores[0] if metric == "cosine" else np.sqrt(np.maximum(scores[0], 0))
        return [(int(rows[at]), float(score)) for at, score in zip(found[0], measured, strict=True)]

    def save(self, file: Store) -> str:
        """Its SHA-256. Raises InputError where it cannot be written."""
        content = safetensors.save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})
        file.write_bytes(content)
        return sha256(content)

    @staticmethod
    def load(file: Store, expected_sha256: str) -> Index:
        """Raises InputError where the file is not the one that was written."""
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
        """Whether the arrays are of the shapes and kinds that they should be, and every row is one of N."""
        count, width = self.vectors.shape if self.vectors.ndim == 2 else (-1, -1)
        shapes = [(count, width), (count,), (self.cells + 1,), (self.cells if self.cells > 1 else 0, width)]
        kinds = [np.dtype(kind) for kind in (np.float32, np.int64, np.int64, np.float32)]
        arrays = [getattr(self, field.name) for field in fields(self)]
        if any(a.shape != shape or a.dtype != kind for a, shape, kind in zip(arrays, shapes, kinds, strict=True)):
            return False
        ends = self.starts[0] == 0 and self.starts[-1] == count and (np.diff(self.starts) >= 0).all()
        return bool(self.cells > 0 and ends and np.array_equal(np.sort(self.rows), np.arange(count)))
