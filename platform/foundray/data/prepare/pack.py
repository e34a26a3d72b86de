"""Packing: a stream of documents becomes samples of `context` + 1 tokens.

The opening token precedes each document. A sample's last token is also the first of the next one, so every token is
predicted exactly once. Only the last sample of a stream is shorter. Nothing is padded and nothing is dropped.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

SAMPLE_SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])


class Packer:
    """Collects the tokens of documents and cuts samples from them."""

    def __init__(self, context: int, document_id: int):
        self.context = context
        self.opener = np.array([document_id], np.int32)
        self.pending: list[np.ndarray] = []
        self.length = 0
        """Number of pending tokens."""

    def add(self, ids: np.ndarray, begins: bool = True) -> None:
        """Append token ids of a document: its beginning if `begins`, otherwise more of the last one."""
        self.pending += [self.opener, ids] if begins else [ids]
        self.length += begins + len(ids)

    @property
    def ready(self) -> int:
        """Number of full samples that `take` would return."""
        return max(0, (self.length - 1) // self.context)

    def take(self, at_most: int | None = None, end: bool = False) -> list[np.ndarray]:
        """Remove full samples, each [context + 1], and with `end` also the shorter last one (two tokens or more)."""
        stream = np.concatenate(self.pending) if self.pending else np.empty(0, np.int32)
        count = self.ready if at_most is None else min(self.ready, at_most)
        starts = range(0, count * self.context, self.context)
        samples = [stream[start : start + self.context + 1] for start in starts]
        rest = stream[count * self.context :]
        if end and len(rest) > 1:
            samples.append(rest)
            rest = rest[:0]
        self.pending, self.length = [rest], len(rest)
        return samples


def to_table(samples: list[np.ndarray]) -> pa.Table:
    """Samples as a table of one list column."""
    offsets = np.cumsum([0, *map(len, samples)], dtype=np.int32)
    values = np.concatenate(samples) if samples else np.empty(0, np.int32)
    return pa.table([pa.ListArray.from_arrays(offsets, values)], schema=SAMPLE_SCHEMA)
