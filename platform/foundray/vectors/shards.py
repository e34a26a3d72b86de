"""A folder's vectors as they lie there, and what is made of them once all are: the index, and the word that all is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.data.prepare.limits import Limits
from foundray.errors import InputError
from foundray.storage import Store
from foundray.vectors.blocks import Part, Record, check_all, tally_of
from foundray.vectors.recipe import BAD_ROWS, COMPLETE, INDEX, Complete, Recipe


def finish(folder: Store, parts: Sequence[Part], recipe: Recipe, limits: Limits, report: Callable[[str], None]) -> Complete:
    """Build the index, and say that all is made. Raises InputError where there is nothing, or too much is bad."""
    from foundray.vectors.index import Index, Metric

    records = [(part, record) for part in parts if (record := Record.read(folder, part))]
    names = [name for part, record in records for name in record.names(part)]
    found = [record for _, record in records]
    check_all(found, True, limits, recipe.source, folder)
    balance = tally_of(found).balance
    (folder / BAD_ROWS).write_text("".join(record.listed() for record in found))
    vectors = [vectors_of(folder, name) for name in names]
    metric: Metric = "cosine" if recipe.normalise else "distance"
    index = Index.build(np.concatenate(vectors), metric)
    complete = Complete(
        rows=sum(map(len, vectors)),
        bad_rows=balance.bad,
        lost=balance.lost,
        empty=balance.empty,
        shards=[(name, len(some)) for name, some in zip(names, vectors, strict=True)],
        metric=metric,
        cells=index.cells,
        index_sha256=index.save(folder / INDEX),
    )
    (folder / COMPLETE).write_text(complete.model_dump_json(indent=1))
    how = "exact: every vector is looked at" if index.cells == 1 else f"about: {index.probed} of {index.cells:,} cells are"
    report(f"embed: index of {complete.rows:,} vectors by {metric}, {how}")
    return complete


def vectors_of(folder: Store, name: str) -> np.ndarray:
    """[rows, width] of a block. Raises InputError where its file cannot be read."""
    column = table_of(folder, name, ["vector"]).column("vector").combine_chunks()
    flat = column.flatten().to_numpy()
    return flat.reshape(len(column), -1)


def table_of(folder: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A block's rows. Raises InputError where its file cannot be read."""
    file = folder / f"shards/{name}.parquet"
    try:
        # Not by `read_table`, which reads in Arrow's threads whatever it is told: one that still holds Python's bytes when the
        # program ends takes it down with it.
        return pq.ParquetFile(pa.BufferReader(file.read_bytes()), pre_buffer=False).read(columns, use_threads=False)
    except pa.ArrowException as error:
        raise InputError(f"{file} is damaged: {error}; delete it, and the same `foundray embed` makes it anew") from None
