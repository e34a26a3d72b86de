"""A run's logs as data frames."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from foundray.records.lines import damage_sentences
from foundray.records.reader import Reader
from foundray.records.schema import Step
from foundray.storage import Store

if TYPE_CHECKING:
    import pandas as pd

BATCH = 1 << 16
"""Records held as Python objects at a time."""
_ARROW: dict[Any, pa.DataType] = {
    int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string(), int | None: pa.int64(), bool | None: pa.bool_(),
    list[int]: pa.list_(pa.int64()), list[tuple[int, int]]: pa.list_(pa.list_(pa.int32(), 2)),
}  # fmt: skip
STEPS = pa.schema([(name, _ARROW[info.annotation]) for name, info in Step.model_fields.items()])


def steps(folder: Store) -> pd.DataFrame:
    """One row per step, in the order of computation; columns are the fields of `records.Step`, stored by Arrow.

    Raises InputError if the log cannot be read; warns of damaged lines.
    """
    import pandas as pd

    reader = Reader(folder, "metrics")
    records = reader.new()
    tables = [pa.Table.from_pylist(batch, STEPS) for batch in iter(lambda: list(islice(records, BATCH)), [])]
    _warn(reader)
    return pa.concat_tables(tables or [STEPS.empty_table()]).to_pandas(types_mapper=pd.ArrowDtype)


def events(folder: Store) -> pd.DataFrame:
    """One row per event, in order; one column per field that any event has. Raises InputError; warns of damage, as `steps`."""
    import pandas as pd

    reader = Reader(folder, "events")
    found = list(reader.new())
    _warn(reader)
    return pd.DataFrame(found, columns=None if found else ["time", "event"])


def _warn(reader: Reader) -> None:
    for sentence in damage_sentences(reader.damage):
        warnings.warn(sentence, stacklevel=3)
