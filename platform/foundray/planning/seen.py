"""The share of repeated contents, distinguished by 64-bit hashes, in bounded memory.

If there are very many, only contents whose hash begins with n zero bits are kept: of a content all copies are kept or none, so
the share of copies among those kept is that of all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel

HASH = 8
"""Bytes of a hash."""
KEPT = 2**20
"""Most contents kept: 24 MB."""


class Repeats(BaseModel):
    """Shares of a source, or of all, that are copies of earlier contents."""

    items: float = 0.0
    """Share of the number of contents."""
    bytes: float = 0.0
    """Share of their bytes."""


class Seen:
    """The contents seen, how often, and their total bytes."""

    def __init__(self, level: int = 0, most: int = KEPT):
        self.level, self.most = level, most
        """Zero bits with which a kept hash begins."""
        self.hashes, self.counts, self.bytes = (np.empty(0, kind) for kind in (np.uint64, np.int64, np.int64))
        self.new: list[tuple[int, int, int]] = []

    def add(self, content: bytes, size: int | None = None) -> None:
        self.add_hash(hashlib.blake2b(content, digest_size=HASH), len(content) if size is None else size)

    def add_hash(self, content: hashlib.blake2b, size: int) -> None:
        """Add a content of `size` bytes by its hash of `HASH` bytes."""
        number = int.from_bytes(content.digest(), "big")
        if not number >> (64 - self.level):
            self.new.append((number, 1, size))
            if len(self.new) > self.most:
                self._settle()

    def repeats(self) -> Repeats:
        self._settle()
        copies = self.counts - 1
        if not len(self.counts):
            return Repeats()
        whole = max(1, int(self.bytes.sum()))
        return Repeats(
            items=float(copies.sum() / self.counts.sum()), bytes=float((self.bytes * (copies / self.counts)).sum() / whole)
        )

    @staticmethod
    def together(parts: Iterable[Seen], most: int = KEPT) -> Seen:
        """The contents of all parts."""
        whole = Seen(most=most)
        for part in parts:
            part._settle()
            whole._take(part.hashes, part.counts, part.bytes, part.level)
        return whole

    def to_text(self) -> str:
        self._settle()
        columns = np.stack([self.hashes.view(np.int64), self.counts, self.bytes])
        return f"{self.level} {base64.b64encode(columns.astype('<i8').tobytes()).decode()}"

    @staticmethod
    def from_text(text: str) -> Seen:
        level, _, columns = text.partition(" ")
        seen = Seen(int(level))
        hashes, seen.counts, seen.bytes = np.frombuffer(base64.b64decode(columns), "<i8").reshape(3, -1)
        seen.hashes = hashes.view(np.uint64)
        return seen

    def _settle(self) -> None:
        if self.new:
            new, self.new = self.new, []
            hashes, counts, sizes = zip(*new, strict=True)
            self._take(np.array(hashes, np.uint64), np.array(counts), np.array(sizes), self.level)

    def _take(self, hashes: np.ndarray, counts: np.ndarray, sizes: np.ndarray, level: int) -> None:
        """Add contents kept at `level`, and raise the level until at most `most` remain."""
        self.level = max(self.level, level)
        every = np.concatenate([self.hashes, hashes])
        self.hashes, where = np.unique(every, return_inverse=True)
        self.counts = np.bincount(where, np.concatenate([self.counts, counts]), len(self.hashes)).astype(np.int64)
        self.bytes = np.bincount(where, np.concatenate([self.bytes, sizes]), len(self.hashes)).astype(np.int64)
        self._thin()
        while len(self.hashes) > self.most:
            self.level += 1
            self._thin()

    def _thin(self) -> None:
        if self.level:
            kept = self.hashes >> np.uint64(64 - self.level) == 0
            self.hashes, self.counts, self.bytes = self.hashes[kept], self.counts[kept], self.bytes[kept]
