"""Parcels read by Ray Data, in the global order, from any position.

A parcel is one Arrow row. A Ray Data block holds at least one row, so Ray Data never splits a parcel; the target block size
keeps it from merging two. The k-th block of the stream is therefore the k-th parcel.
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
"""Size limits of one Dataset. Ray Data keeps polling until a Dataset is read to its end, so Datasets are small if workers are
slow. If workers are fast, they are as large as planning allows, which costs milliseconds per task."""


def read_by_ray_data(plan: StreamPlan, first: int, end: int) -> Iterator[Parcel]:
    """Yield the parcels of micro-batches [first, end), in order.

    The first few are read on the caller's node: when a group starts because a node was lost, Ray may not know that yet, and
    would send tasks there.
    """
    start, strategy = first, beside_caller()
    fewest, most = FEWEST_PARCELS * plan.per_parcel, MOST_TASKS * plan.per_task
    size = fewest
    while start < end:
        # Read one Dataset, and measure how much of the time its consumer takes.
        stop, began, consuming = min(end, start + size), time.monotonic(), 0.0
        for made in _parcels_of_dataset(plan, start, stop, strategy):
            yielded = time.monotonic()
            yield made
            consuming += time.monotonic() - yielded
        start, strategy = stop, "DEFAULT"
        # Double the next Dataset if the consumer waited for data; halve it otherwise.
        waited_for_data = consuming < (time.monotonic() - began) / 2
        size = min(2 * size, most) if waited_for_data else max(size // 2 // plan.per_parcel * plan.per_parcel, fewest)


def _parcels_of_dataset(plan: StreamPlan, first: int, end: int, strategy: Any) -> Iterator[Parcel]:
    tasks = len(range(first, end, plan.per_task))
    # Data tasks reserve no CPU, so workers that hold all CPUs cannot starve them, nor they the workers.
    options = {"num_cpus": 0, "scheduling_strategy": strategy}
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
    """Configure Ray Data as the stream requires, in the driving process."""
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
