"""Micro-batches in the global order, from any position: read samples, plan them by the objective, pack them.

Ray Data runs this in tasks (`datasets`), which send parcels of several micro-batches. Importing Ray Data takes a second, so
this module does not need: workers only open the parcels that they receive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.cluster.causes import described
from foundray.contract import Units, UnitShape, Values, load_modality, load_objective
from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.batch import packed
from foundray.data.stream.manifests import keep, manifest_of
from foundray.data.stream.order import WINDOW, Address, SampleOrder, mix
from foundray.errors import BadData, InputError, StorageAway
from foundray.host.threads import one_blas_thread
from foundray.spec import Spec
from foundray.storage import Store, sha256

PARCEL_BYTES = 2**18
PACKED_BYTES = 8
"""Approximate bytes per id, or per value of a unit, in a packed micro-batch: input and target."""
CHOOSING = 2**34
"""Part of the key for choosing micro-batches of the validation split; no other random number uses it."""
CACHED_BYTES = 2**27
"""Bytes of decoded row groups that a data task keeps for the next task in its process."""


Parcel = tuple[int, int, Any]
"""(first micro-batch, micro-batches, reference)"""


@dataclass(frozen=True)
class StreamPlan:
    """The micro-batches of a stream: all that a data task needs, in some hundred bytes however many shards there are."""

    folder: str
    """URL of the prepared data."""
    manifest: str
    """Digest of their manifest, which each process reads from the folder."""
    weights: tuple[float, ...]
    holdout: float
    seed: int
    micro_batch_size: int
    planning: str
    """Objective, modality, and sizes of the data, as JSON."""
    validation: bool = False
    chosen: int | None = None
    """Number of micro-batches of the validation split, chosen by the seed and spread evenly over it; None for all."""

    def order(self) -> SampleOrder:
        """The global order of the data's samples. Raises InputError if the manifest has changed or cannot be read."""
        return _order(self.folder, self.manifest, self.weights, self.holdout, self.seed)

    def addresses(self, first: int, count: int) -> Address:
        """Addresses of the samples in micro-batches [first, first + count)."""
        size = self.micro_batch_size
        order = self.order()
        return (order.validation if self.validation else order.train)(first * size, count * size)

    def split_index(self, index: int) -> int:
        """Index in the split of micro-batch `index`: one is chosen from each equal part of the full micro-batches, in order."""
        return (
            index if self.chosen is None else self.chosen_index(index, self.order().validation_samples // self.micro_batch_size)
        )

    def chosen_index(self, index: int, whole: int) -> int:
        """`split_index` in a split of `whole` full micro-batches, of which some are chosen."""
        assert self.chosen is not None
        start, stop = index * whole // self.chosen, (index + 1) * whole // self.chosen
        return start + mix(self.seed, CHOOSING, index) % (stop - start)

    @property
    def micro_batch_bytes(self) -> int:
        """Approximate bytes of a packed micro-batch."""
        unit = PACKED_BYTES * max(1, json.loads(self.planning)["width"])
        return int(unit * (self.order().manifest.context + 1) * self.micro_batch_size)

    @property
    def per_parcel(self) -> int:
        """Micro-batches per parcel."""
        return max(1, PARCEL_BYTES // self.micro_batch_bytes)

    @property
    def per_task(self) -> int:
        """Micro-batches per task: the samples of half a shuffling window, in whole parcels."""
        window = WINDOW * self.order().manifest.rows_per_group
        return max(1, window // 2 // (self.micro_batch_size * self.per_parcel)) * self.per_parcel


@lru_cache(4)
def _order(folder: str, manifest: str, weights: tuple[float, ...], holdout: float, seed: int) -> SampleOrder:
    """The order of all plans over the same data: those of training and validation share it."""
    return SampleOrder(manifest_of(folder, manifest), list(weights), holdout, seed)


def parcel(plan: StreamPlan, first: int, count: int) -> pa.Table:
    """Micro-batches [first, first + count) as one row, to be sent as one Ray object."""
    payloads = list(read_micro_batches(plan, first, count))
    # Built of buffers: Arrow imports pandas, a quarter of a second, before it converts anything of Python's or NumPy's.
    ends = pa.py_buffer(np.cumsum([0, *map(len, payloads)], dtype=np.int64))
    each = pa.Array.from_buffers(pa.large_binary(), len(payloads), [None, ends, pa.py_buffer(b"".join(payloads))])
    whole = pa.py_buffer(np.array([0, len(payloads)], np.int32))
    row = pa.Array.from_buffers(pa.list_(pa.large_binary()), 1, [None, whole], children=[each])
    return pa.Table.from_arrays([_integers(np.array([first])), row], names=["first", "payloads"])


def _integers(values: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values, np.int64))])


def open_parcel(block: pa.Table) -> tuple[int, list[bytes]]:
    """The index of a parcel's first micro-batch, and the payloads."""
    return block.column("first")[0].as_py(), block.column("payloads")[0].as_py()


def read_samples(plan: StreamPlan, first: int, count: int) -> pa.Table:
    """Read the samples of micro-batches [first, first + count), in order."""
    # Read each row group once, then take the rows in the order of the samples.
    at = plan.addresses(first, count)
    key = at.shard * 2**32 + at.group
    groups, which = np.unique(key, return_inverse=True)
    tables = [_row_group(plan, int(k >> 32), int(k & 0xFFFFFFFF)) for k in groups]
    starts = np.cumsum([0] + [len(t) for t in tables])[:-1]
    return pa.concat_tables(tables).take(_integers(starts[which] + at.row)).combine_chunks()


def read_micro_batches(plan: StreamPlan, first: int, count: int) -> Iterator[bytes]:
    """Yield the payloads of micro-batches [first, first + count), in order."""
    if plan.chosen is not None:
        for index in range(first, first + count):
            yield from read_micro_batches(replace(plan, chosen=None), plan.split_index(index), 1)
        return
    samples, size = read_samples(plan, first, count), plan.micro_batch_size
    planner = _planner(plan.planning)
    for index in range(count):
        yield planner.micro_batch(plan, (first + index) * size, samples.slice(index * size, size))


class _Planner:
    """Makes payloads of samples, by the modality and the objective."""

    def __init__(self, planning: str):
        config = json.loads(planning)
        self.objective = load_objective(config["objective"], config["objective_options"])
        self.modality = load_modality(config["modality"], config["modality_options"])
        self.views = 2 if self.objective.couples else 1
        self.document_id, self.length = config["document_id"], config["length"]
        self.shape = self.modality.shape if isinstance(self.modality, Values) else UnitShape(classes=config["classes"])

    def micro_batch(self, plan: StreamPlan, position: int, samples: pa.Table) -> bytes:
        """Make the payload of the samples from `position` on. A sample's rng depends on its position alone."""
        plans = []
        with one_blas_thread():
            for offset, row in enumerate(_rows(samples)):
                key = mix(plan.seed, position + offset, int(plan.validation))
                rng = np.random.Generator(np.random.Philox(key=key))
                with _naming_samples(plan, position + offset):
                    for _ in range(self.views):
                        units = self._units(row, None if plan.validation and self.views == 1 else rng)
                        plans.append(self.objective.plan(units, rng))
        with _naming_samples(plan, position, len(samples)):  # fails if the samples' shapes differ
            return packed(plans)

    def _units(self, row: dict[str, Any], rng: np.random.Generator | None) -> Units:
        if isinstance(self.modality, Values):
            return replace(self.modality.units(row, self.length, rng), shape=self.shape)
        x = row["tokens"].astype(np.int64)
        document = np.cumsum(x == self.document_id)
        units = Units(x, document if document[-1] > document[0] else None, self.shape)
        return units if rng is None else self.modality.augment(units, rng)


@contextmanager
def _naming_samples(plan: StreamPlan, position: int, count: int = 1) -> Iterator[None]:
    """Turn any error inside into a BadData that names the samples and their raw files."""
    try:
        yield
    except MemoryError:  # another node may have enough
        raise
    except Exception as error:
        order = plan.order()
        address = (order.validation if plan.validation else order.train)(position, count)
        inputs = [file for shard in np.unique(address.shard) for file in order.manifest.shards[shard].inputs]
        names = order.ids(address)
        subject = f"{len(names):,} samples from {names[0]} on" if count > 1 else f"sample {names[0]}"
        raise BadData(f"{subject} (of {_files(inputs)}) cannot be used: {described(error)}") from error


def _files(files: list[str]) -> str:
    return files[0] if len(files) == 1 else f"one of {len(files):,} files, {files[0]} to {files[-1]}"


def _rows(samples: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as dicts by column name, with lists of numbers as arrays."""
    for index in range(len(samples)):
        cells = {name: samples.column(name)[index] for name in samples.column_names}
        yield {name: _numbers(cell.values) if isinstance(cell, pa.ListScalar) else cell.as_py() for name, cell in cells.items()}


_planner = lru_cache(4)(_Planner)


_cache: dict[tuple[str, int], pa.Table] = {}


def _row_group(plan: StreamPlan, shard: int, group: int) -> pa.Table:
    """Read one row group, or take it from this process's cache (least recently used first out)."""
    entry = plan.order().manifest.shards[shard]
    file = Store.at(plan.folder) / entry.file
    key = (file.url, group)
    table = _cache.pop(key, None)
    if table is None:
        try:
            table = _parquet(file.url).read_row_group(group)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(file, entry.sha256, plan.folder, error) from error
    _cache[key] = table
    while sum(t.nbytes for t in _cache.values()) > CACHED_BYTES and len(_cache) > 1:
        del _cache[next(iter(_cache))]
    return table


def _unreadable(file: Store, sha: str, folder: str, error: Exception) -> InputError:
    """The error that says why: the shard is damaged, or storage cannot be read. Raises InputError."""
    if sha256(file.read_bytes()) != sha:
        return BadData(f"the prepared shard {file} is damaged ({described(error)}); delete {folder} and prepare again")
    return StorageAway(f"{file} cannot be read: {described(error)}")


@lru_cache(64)
def _parquet(url: str) -> pq.ParquetFile:
    store = Store.at(url)
    return pq.ParquetFile(store.filesystem.open_input_file(store.path), page_checksum_verification=True)


def plan_for(prepared: Prepared, spec: Spec) -> StreamPlan:
    """Plan of the training stream over a prepared data set, whose manifest this process keeps."""
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
    digest, size = keep(manifest), spec.train.micro_batch_size
    return StreamPlan(prepared.folder.url, digest, weights, spec.data.holdout, spec.seed, size, json.dumps(planning))


def _numbers(values: pa.Array) -> np.ndarray:
    """Numbers as a read-only NumPy array. Arrow's own conversion, which needs pandas, only for what is not as NumPy has it."""
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if values.null_count or not numeric or not len(values):
        converted: np.ndarray = values.to_numpy(zero_copy_only=False)
        return converted
    dtype = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)
