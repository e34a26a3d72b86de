"""A stream's *parcels*: runs of consecutive micro-batches, each sent as one Ray object.

The feeder itself reads the first few. Ray Data takes CPU seconds to start, which the workers of a new run need for their own
start; and a group that starts again has its data at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import ray

from foundray.data.stream.plan import Parcel, StreamPlan, parcel

DIRECT_PARCELS = 4
"""Parcels that the feeder reads, about a megabyte in all: enough until Ray Data has started, unless steps are very short."""
_reading = threading.Lock()
"""Each stream has its own reading thread, and all share the cache of row groups."""


def parcels(plan: StreamPlan, first: int, end: int, may_start: Callable[[], bool]) -> Iterator[Parcel]:
    """Yield the parcels of micro-batches [first, end), in order.

    `may_start` blocks until Ray Data may start, and returns False if the stream has been closed.
    """
    direct_end = min(end, first + DIRECT_PARCELS * plan.per_parcel)
    for start in range(first, direct_end, plan.per_parcel):
        count = min(plan.per_parcel, direct_end - start)
        with _reading:
            made = parcel(plan, start, count)
        yield start, count, ray.put(made)
    if direct_end < end and may_start():
        from foundray.data.stream.datasets import read_by_ray_data  # imports Ray Data

        yield from read_by_ray_data(plan, direct_end, end)
