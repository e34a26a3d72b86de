"""Reads a folder's vectors, and finishes it: builds the index and the record that it is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundray.data.prepare.limits import Limits
from foundray.errors import InputError
from foundray.storage import Store
from foundray.vectors.blocks import Part, Record, check_all, tally_of
from foundray.vectors.recipe import BAD_ROWS, CARD, COMPLETE, INDEX, Complete, Recipe

README = """\
---
configs:
- config_name: default
  data_files: shards/*.parquet
---
Vectors of {width} numbers by `foundray embed`; `embedding.json` says of which data and by which weights.

```python
import datasets, pandas

frame = pandas.read_parquet("FOLDER/shards")
rows = datasets.load_dataset("FOLDER", split="train")
```
"""
"""A folder's README.md. Its first lines tell `datasets` which of the files to load."""


def finish(folder: Store, parts: Sequence[Part], recipe: Recipe, limits: Limits, report: Callable[[str], None]) -> Complete:
    """Build the index, and record that the folder is complete. Raises InputError if there are no rows or too many bad ones."""
    from foundray.vectors.index import Index, Metric

    records = [(part, record) for part in parts if (record := Record.read(folder, part))]
    names = [name for part, record in records for name in record.names(part)]
    found = [record for _, record in records]
    check_all(found, True, limits, recipe.source, folder)
    balance = tally_of(found).balance
    (folder / CARD).write_text(README.format(width=recipe.width))
    (folder / BAD_ROWS).write_text("".join(record.listed() for record in found))
    vectors = [vectors_of(folder, name) for name in names]
    metric: Metric = "cosine" if recipe.normalise else "distance"
    index = Index.build(np.concatenate(vectors), metric)
    complete = Complete(
        rows=sum(map(len, vectors)),
        bad_rows=balance.bad,
        lost=balance.lost,
        empty=balance.empty,
        shards=[(name, len(block)) for name, block in zip(names, vectors, strict=True)],
        metric=metric,
        cells=index.cells,
        index_sha256=index.save(folder / INDEX),
    )
    (folder / COMPLETE).write_text(complete.model_dump_json(indent=1))
    how = "exact" if index.cells == 1 else f"approximate: a search probes {index.probed} of {index.cells:,} cells"
    report(f"embed: index of {complete.rows:,} vectors by {metric}, {how}")
    return complete


def vectors_of(folder: Store, name: str) -> np.ndarray:
    """Vectors of a block, [rows, width]. Raises InputError if its file cannot be read."""
    column = table_of(folder, name, ["vector"]).column("vector").combine_chunks()
    flat = column.flatten().to_numpy()
    return flat.reshape(len(column), -1)


def table_of(folder: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Table of a block. Raises InputError if its file cannot be read."""
    file = folder / f"shards/{name}.parquet"
    try:
        # Not `read_table`, which always reads in Arrow's threads: one that still holds Python's bytes when the program ends
        # crashes it.
        return pq.ParquetFile(pa.BufferReader(file.read_bytes()), pre_buffer=False).read(columns, use_threads=False)
    except pa.ArrowException as error:
        raise InputError(f"{file} is damaged: {error}; delete it, and the same `foundray embed` makes it again") from None
