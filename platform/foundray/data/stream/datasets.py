"""Parcels read by Ray Data, in the global order, from any position.

A parcel is one Arrow row. One row is the smallest thing that Ray Data can make a block of, so a parcel is never merged with or
split from another, and the k-th block of the stream is the k-th parcel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from foundray.cluster.connect import beside_caller
from foundray.data.stream.plan import Parcel, StreamPlan, parcel

FEWEST_PARCELS, MOST_TASKS = 16, 64
"""Of a Dataset. Ray Data keeps looking around while a Dataset is not read to its end, so they are small where workers are
slow; and where workers are fast, as large as planning allows, which costs milliseconds per task."""


def read_by_ray_data(plan: StreamPlan, first: int, end: int) -> Iterator[Parcel]:
    """The parcels of micro-batches [first, end), in order.

    The first few are read beside the caller: when a group starts because a node was lost, Ray may not know that yet, and
    would send tasks there.
    """
    start, where = first, beside_caller(soft=True)
    fewest, most = FEWEST_PARCELS * plan.per_parcel, MOST_TASKS * plan.per_task
    size = fewest
    while start < end:
        stop, began, taking = min(end, start + size), time.monotonic(), 0.0
        for made in _parcels_of_dataset(plan, start, stop, where):
            given = time.monotonic()
            yield made
            taking += time.monotonic() - given
        start, where = stop, "DEFAULT"
        waited_for_data = taking < (time.monotonic() - began) / 2
        size = min(2 * size, most) if waited_for_data else max(size // 2 // plan.per_parcel * plan.per_parcel, fewest)


def _parcels_of_dataset(plan: StreamPlan, first: int, end: int, where: Any) -> Iterator[Parcel]:
    tasks = len(range(first, end, plan.per_task))
    # A data task asks for no CPU of its own: it cannot be starved by workers that hold them all, nor starve them.
    options = {"num_cpus": 0, "scheduling_strategy": where}
    dataset = ray.data.read_datasource(
        _MicroBatches(plan, first, end), override_num_blocks=tasks, concurrency=2, ray_remote_args=options
    )
    position = first
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            assert block.metadata.num_rows == 1, f"a block of {block.metadata.num_rows} parcels"
            count = min(plan.per_parcel, end - position, plan.per_task - (position - first) % plan.per_task)
            yield position, count, block.ref
            position += count
    assert position == end, f"the stream ended at micro-batch {position} instead of {end}"


def configure_ray_data(store_bytes: int) -> None:
    """Set what the stream relies on, in the process that drives it."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=store_bytes)
    context.target_max_block_size = 1
    context.max_errored_blocks = 0
    context.execution_no_progress_timeout_s = -1  # a consumer that evaluates or waits is not stuck
    context.output_backpressure_guard_release_interval_s = 5


class _MicroBatches(Datasource):
    """A Ray Data source whose read tasks emit the parcels of a range of micro-batches."""

    def __init__(self, plan: StreamPlan, first: int, end: int):
        super().__init__()
        self.plan, self.first, self.end = plan, first, end

    def get_name(self) -> str:
        return "MicroBatches"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            self._task(start, min(start + self.plan.per_task, self.end))
            for start in range(self.first, self.end, self.plan.per_task)
        ]

    def _task(self, first: int, end: int) -> ReadTask:
        plan = self.plan

        def read() -> Iterator[pa.Table]:
            for start in range(first, end, plan.per_parcel):
                yield parcel(plan, start, min(plan.per_parcel, end - start))

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata)
