"""A stream's *parcels*: runs of consecutive micro-batches, each of which travels as one Ray object.

The first few are read by the feeder itself. Ray Data takes seconds of processors to start, which the workers of a run that
begins need for their own start; and where a group begins again, its data are there at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import ray

from foundray.data.stream.plan import Parcel, StreamPlan, parcel

OWN = 4
"""Parcels, together about a megabyte: micro-batches for the seconds in which Ray Data starts, unless steps are very short."""
_reading = threading.Lock()
"""Streams are read by a thread each, and row groups that were read are kept for all."""


def parcels(plan: StreamPlan, first: int, end: int, goes_on: Callable[[], bool]) -> Iterator[Parcel]:
    """The parcels of micro-batches [first, end), in order.

    `goes_on` waits until Ray Data may begin; it says no if the stream is not wanted any more.
    """
    own = min(end, first + OWN * plan.per_parcel)
    for start in range(first, own, plan.per_parcel):
        count = min(plan.per_parcel, own - start)
        with _reading:
            made = parcel(plan, start, count)
        yield start, count, ray.put(made)
    if own < end and goes_on():
        from foundray.data.stream.datasets import read_by_ray_data  # imports Ray Data

        yield from read_by_ray_data(plan, own, end)
