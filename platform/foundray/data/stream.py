"""Streaming micro-batches with Ray Data, in the global order, from any position.

A data worker reads samples, lets the objective plan them, and packs micro-batches. A *parcel* is a run of consecutive
micro-batches that travels as one Ray object: one Arrow row that holds their payloads. One row is the smallest thing that
Ray Data can make a block of, so a parcel is never merged with or split from another, and the k-th block of the stream is
the k-th parcel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import DataContext, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from foundray.batch import packed
from foundray.cluster import beside_caller
from foundray.contract import Units, UnitShape, Values, load_modality, load_objective
from foundray.data.manifest import Manifest, Prepared
from foundray.data.order import WINDOW, Address, SampleOrder, mix
from foundray.spec import Spec
from foundray.storage import Store, reading

PARCEL_BYTES = 2**18
PACKED_BYTES = 8
"""Of one id, or one of a unit's values, in a packed micro-batch, about: what is shown, and what is asked."""
TASKS_PER_DATASET = 64
"""Planning costs milliseconds a task, so the endless stream is cut into Datasets of so many."""
TASKS_BESIDE = 2
"""Of a stream's first Dataset, which are read beside whoever asks."""
CACHED_BYTES = 2**27
"""Decoded row groups that a data task keeps for the next one in its process."""


Parcel = tuple[int, int, Any]
"""(first micro-batch, micro-batches, reference)"""


@dataclass(frozen=True)
class StreamPlan:
    """Which micro-batches a stream consists of; small, and all that a data task needs to know."""

    folder: str
    manifest: str
    """The manifest, as JSON."""
    weights: tuple[float, ...]
    holdout: float
    seed: int
    micro_batch_size: int
    planning: str
    """The objective and what the data's ids mean, as JSON."""
    validation: bool = False

    def order(self) -> SampleOrder:
        return _order(self)

    def addresses(self, first: int, count: int) -> Address:
        """Of the samples in micro-batches [first, first + count)."""
        size = self.micro_batch_size
        order = self.order()
        return (order.validation if self.validation else order.train)(first * size, count * size)

    @property
    def per_parcel(self) -> int:
        """Micro-batches in a parcel."""
        unit = PACKED_BYTES * max(1, json.loads(self.planning)["width"])
        return max(1, PARCEL_BYTES // (unit * (self.order().manifest.context + 1) * self.micro_batch_size))

    @property
    def per_task(self) -> int:
        """Micro-batches read by one task: half a shuffling window's samples, as whole parcels."""
        window = WINDOW * self.order().manifest.rows_per_group
        return max(1, window // 2 // (self.micro_batch_size * self.per_parcel)) * self.per_parcel


@lru_cache(4)
def _order(plan: StreamPlan) -> SampleOrder:
    manifest = Manifest.model_validate_json(plan.manifest)
    return SampleOrder(manifest, list(plan.weights), plan.holdout, plan.seed)


def parcels(plan: StreamPlan, first: int, end: int) -> Iterator[Parcel]:
    """The parcels of micro-batches [first, end), in order.

    The first few are read beside the caller: when a group starts because a node was lost, Ray may not know that yet, and
    would send tasks there.
    """
    start, tasks, near = first, TASKS_BESIDE, beside_caller(soft=True)
    while start < end:
        stop = min(end, start + tasks * plan.per_task)
        yield from _parcels_of_dataset(plan, start, stop, near)
        start, tasks, near = stop, TASKS_PER_DATASET, "DEFAULT"


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


def open_parcel(block: pa.Table) -> tuple[int, list[bytes]]:
    """A parcel's first micro-batch, and the payloads from there on."""
    return block.column("first")[0].as_py(), block.column("payloads")[0].as_py()


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
                payloads = list(read_micro_batches(plan, start, min(plan.per_parcel, end - start)))
                yield pa.table({"first": [start], "payloads": pa.array([payloads], pa.list_(pa.large_binary()))})

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata)


def read_samples(plan: StreamPlan, first: int, count: int) -> pa.Table:
    """The samples of micro-batches [first, first + count), in order."""
    at = plan.addresses(first, count)
    key = at.shard * 2**32 + at.group
    groups, which = np.unique(key, return_inverse=True)
    tables = [_row_group(plan, int(k >> 32), int(k & 0xFFFFFFFF)) for k in groups]
    starts = np.cumsum([0] + [len(t) for t in tables])[:-1]
    return pa.concat_tables(tables).take(starts[which] + at.row).combine_chunks()


def read_micro_batches(plan: StreamPlan, first: int, count: int) -> Iterator[bytes]:
    """The payloads of micro-batches [first, first + count), in order."""
    samples, size = read_samples(plan, first, count), plan.micro_batch_size
    planner = _planner(plan.planning)
    for index in range(count):
        yield planner.micro_batch(plan, (first + index) * size, samples.slice(index * size, size))


class _Planner:
    """Modality and objective at work in a data worker."""

    def __init__(self, planning: str):
        told = json.loads(planning)
        self.objective = load_objective(told["objective"], told["objective_options"])
        self.modality = load_modality(told["modality"], told["modality_options"])
        self.views = 2 if self.objective.couples else 1
        self.document_id, self.length = told["document_id"], told["length"]
        self.shape = self.modality.shape if isinstance(self.modality, Values) else UnitShape(classes=told["classes"])

    def micro_batch(self, plan: StreamPlan, position: int, samples: pa.Table) -> bytes:
        """The payload of samples that lie in the order from `position` on. A sample's chance follows from its place."""
        plans = []
        for ahead, row in enumerate(_rows(samples)):
            key = mix(plan.seed, position + ahead, int(plan.validation))
            chance = np.random.Generator(np.random.Philox(key=int(key)))
            for _ in range(self.views):
                units = self._units(row, None if plan.validation and self.views == 1 else chance)
                plans.append(self.objective.plan(units, chance))
        return packed(plans)

    def _units(self, row: dict[str, Any], chance: np.random.Generator | None) -> Units:
        if isinstance(self.modality, Values):
            return replace(self.modality.units(row, self.length, chance), shape=self.shape)
        x = row["tokens"].astype(np.int64)
        document = np.cumsum(x == self.document_id)
        units = Units(x, document if document[-1] > document[0] else None, self.shape)
        return units if chance is None else self.modality.augment(units, chance)


def _rows(samples: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows by column name; lists of numbers as arrays."""
    for index in range(len(samples)):
        cells = {name: samples.column(name)[index] for name in samples.column_names}
        yield {
            name: cell.values.to_numpy(zero_copy_only=False) if isinstance(cell, pa.ListScalar) else cell.as_py()
            for name, cell in cells.items()
        }


_planner = lru_cache(4)(_Planner)


_cache: dict[tuple[str, int], pa.Table] = {}


def _row_group(plan: StreamPlan, shard: int, group: int) -> pa.Table:
    """One decoded row group, from this process's memory where it was read before."""
    file = Store.at(plan.folder) / plan.order().manifest.shards[shard].file
    key = (file.url, group)
    table = _cache.pop(key, None)
    if table is None:
        with reading(file):
            table = _parquet(file.url).read_row_group(group)
    _cache[key] = table
    while sum(t.nbytes for t in _cache.values()) > CACHED_BYTES and len(_cache) > 1:
        del _cache[next(iter(_cache))]
    return table


@lru_cache(64)
def _parquet(url: str) -> pq.ParquetFile:
    store = Store.at(url)
    return pq.ParquetFile(store.filesystem.open_input_file(store.path), page_checksum_verification=True)


def plan_for(prepared: Prepared, spec: Spec) -> StreamPlan:
    """The training stream's plan over a prepared data set."""
    manifest = prepared.manifest
    weights = tuple(source.weight for source in spec.data.sources)
    planning = {
        "objective": spec.objective.kind,
        "objective_options": spec.objective.model_extra or {},
        "modality": spec.data.modality.kind,
        "modality_options": spec.data.modality.model_extra or {},
        "document_id": manifest.document_id,
        "classes": manifest.vocabulary,
        "length": manifest.context,
        "width": spec.unit_shape(manifest.vocabulary).width,
    }
    text, size = manifest.model_dump_json(), spec.train.micro_batch_size
    return StreamPlan(prepared.folder.url, text, weights, spec.data.holdout, spec.seed, size, json.dumps(planning))
