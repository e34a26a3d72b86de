"""A worker: computes the vectors of a block's batches with the frozen network, and writes them to one file."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import torch as safetensors
from torch.nn import functional as F

from foundray.cluster.causes import described
from foundray.errors import InputError, RunFailed
from foundray.evaluation.encoder import Encoder, Layer, Pool, pooled
from foundray.host.devices import traits
from foundray.host.threads import torch_threads
from foundray.model.model import Batch
from foundray.spec import Spec
from foundray.storage import Store


@dataclass(frozen=True)
class Task:
    """What to compute for each block."""

    spec: Spec
    vocabulary: int
    layer: Layer
    pool: Pool
    normalise: bool
    device: str
    threads: int


class Embedder:
    """Computes vectors of batches with a frozen network."""

    def __init__(self, task: Task, weights: dict[str, torch.Tensor]):
        """Raises InputError if the layer is too deep."""
        self.task, self.device = task, torch.device(task.device)
        self.encoder = Encoder.of(task.spec, task.vocabulary, weights, task.layer)
        self.encoder.model.to(self.device)

    @torch.no_grad()
    def __call__(self, batch: bytes) -> np.ndarray:
        """Vectors of a batch's samples, [B, width] float32."""
        with torch_threads(self.task.threads), traits(self.device).low_precision():  # as in training
            vectors = pooled(self.encoder, Batch.load(batch, self.device), self.task.pool).float()
        return (F.normalize(vectors) if self.task.normalise else vectors).cpu().numpy()


class BlockWriter:
    """Turns blocks into files with vectors."""

    def __init__(self, embed: Embedder, folder: Store):
        self.embed, self.folder = embed, folder
        self.name = f"{platform.node()}:{os.getpid()}"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a block's name and number of rows, or an error as a row, because Ray would retry and wrap a raised one."""
        if row["error"]:
            return {"block": "", "rows": 0, "worker": self.name, "error": row["error"]}
        try:
            rows = self._write(row)
        except InputError as error:
            return {"block": "", "rows": 0, "worker": self.name, "error": str(error)}
        except Exception as error:
            ids = pa.ipc.open_stream(row["table"]).read_all()["id"]
            raise RunFailed(f"rows {ids[0]} to {ids[-1]}: {described(error)}") from error
        return {"block": row["block"], "rows": rows, "worker": self.name, "error": ""}

    def _write(self, row: dict[str, Any]) -> int:
        sorted_vectors = np.concatenate([self.embed(batch) for batch in row["batches"]])
        vectors = np.empty_like(sorted_vectors)
        vectors[np.asarray(row["order"])] = sorted_vectors
        table = pa.ipc.open_stream(row["table"]).read_all()
        if not np.isfinite(vectors).all():
            first = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
            raise InputError(f"the vector of {table['id'][first]} is not finite: the run's network computes no number for it")
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        with (self.folder / f"shards/{row['block']}.parquet").replacing() as stream:
            pq.write_table(table.add_column(1, "vector", column), stream, compression="zstd", write_page_checksum=True)
        return len(vectors)


class Worker(BlockWriter):
    """An actor that holds the network."""

    def __init__(self, task: Task, weights: list[Any], folder: str):
        """`weights` holds a reference to the weights as safetensors bytes."""
        import ray  # here, because the driver imports this module before it knows the cluster's token

        super().__init__(Embedder(task, safetensors.load(ray.get(weights[0]))), Store.at(folder))
