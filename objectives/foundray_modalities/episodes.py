"""The episodes of agents in a file: an npz with the steps of all, one after another, or Parquet with a row for each.

An npz holds `states` [N, S], `actions` [N] or [N, A], `rewards` [N], and `lengths` [episodes] that add up to N, perhaps all
under a prefix such as `Pendulum-v1/`. A Parquet file has the first three as columns of lists.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from foundray.contract import Unreadable
from foundray.contract.columns import check, listed
from foundray.contract.parquet_rows import ParquetRows

FIELDS = ("states", "actions", "rewards")
NUMBERS = "biuf"
"""Kinds of NumPy's types that are numbers, or true and false."""
NUMBER_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
"""The same of Arrow's."""
UNPACKED = 2**30
"""Bytes to which the arrays of an npz may be unpacked in any case (judgement)."""
RATIO = 8
"""By how much they may be larger than the file, where that is more (judgement: numbers do not compress better)."""


def episodes(name: str, content: bytes, prefix: str) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    """(`episode N` or `row N`, its fields), or why there is none. Raises Unreadable for a file that has none to use."""
    if not content:
        raise Unreadable("empty", 0, "file")
    if content.startswith(b"PAR1") or ".parquet" in name.lower():
        yield from _of_parquet(content)
    else:
        yield from _of_npz(content, prefix)


def _of_npz(content: bytes, prefix: str) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    """Arrays of pickled objects are never loaded."""
    arrays = _Arrays(content, [prefix + field for field in (*FIELDS, "lengths")])
    lengths = _lengths(arrays.read(prefix + "lengths"))
    try:
        steps = {field: arrays.read(prefix + field) for field in FIELDS}
        _fit(steps, sum(lengths))
    except Unreadable as error:
        raise Unreadable(str(error), max(1, len(lengths)), "episode") from None
    start = 0
    for number, length in enumerate(lengths):
        span = slice(start, start := start + length)
        episode = {field: values[span] for field, values in steps.items()}
        yield f"episode {number}", episode if length else Unreadable("empty", 0, "episode")


def _lengths(values: np.ndarray) -> list[int]:
    """Steps of each episode. Raises Unreadable."""
    if values.dtype.kind not in "iu" or values.ndim > 1:
        found = f"{values.dtype} in the shape {values.shape}"
        raise Unreadable(f"its lengths are {found}; they are to be whole numbers, one per episode", unit="file")
    lengths: list[int] = np.atleast_1d(values).tolist()
    if bad := [number for number, length in enumerate(lengths) if length < 0]:
        reason = f"its lengths are not true: that of episode {bad[0]} is {lengths[bad[0]]}"
        raise Unreadable(reason, len(lengths), "episode")
    return lengths


def _fit(steps: dict[str, np.ndarray], count: int) -> None:
    """Raises Unreadable unless each field has something for each step, and rewards one number."""
    for field, values in steps.items():
        if not values.ndim:
            raise Unreadable(f"its {field} are a single number; they are to be one entry per step")
    if steps["rewards"].size != len(steps["rewards"]):
        raise Unreadable(f"its rewards have the shape {steps['rewards'].shape}; they are to be one number per step")
    held = {field: len(values) for field, values in steps.items()}
    if set(held.values()) != {count}:
        same = len(set(held.values())) == 1
        there = str(held["rewards"]) if same else ", ".join(f"{many} {field}" for field, many in held.items())
        raise Unreadable(f"its lengths add up to {count} steps, and it holds {there}")


class _Arrays:
    """The arrays of an npz, each read, and checked against its header, as it is asked for."""

    def __init__(self, content: bytes, needed: list[str]):
        """Raises Unreadable unless all that are needed are there."""
        if content.startswith(npy.MAGIC_PREFIX):
            raise Unreadable(f"a single array (npy), and not an npz file; it needs {', '.join(needed)}", unit="file")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:
            raise Unreadable(f"not an npz file of plain arrays: {error}", unit="file") from None
        self._found = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        if missing := [name for name in needed if name not in self._found]:
            there = listed(list(self._found))
            raise Unreadable(f"no array {missing[0]!r}; there are: {there}; it needs {', '.join(needed)}", unit="file")
        if (size := sum(self._found[name].file_size for name in needed)) > max(UNPACKED, RATIO * len(content)):
            limit = f"at most 1 GiB, or {RATIO} times the file, are read"
            raise Unreadable(f"its arrays would be unpacked to {size:,} bytes; {limit}", unit="file")

    def read(self, name: str) -> np.ndarray:
        """Raises Unreadable for one that is damaged, or is not of numbers."""
        try:
            content = self._zip.read(self._found[name])
            shape, fortran, dtype = _header(file := io.BytesIO(content))
        except Exception as error:
            raise Unreadable(f"its array {name!r} is damaged: {str(error) or type(error).__name__}", unit="file") from None
        if dtype.hasobject:
            raise Unreadable(f"its array {name!r} is pickled: Object arrays cannot be loaded", unit="file")
        if dtype.kind not in NUMBERS:
            raise Unreadable(f"its array {name!r} is of {dtype}, and not of numbers", unit="file")
        promised, held = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
        if promised != held or min(shape, default=0) < 0:
            raise Unreadable(f"its array {name!r} is to have {promised} bytes, by its shape, and has {held}", unit="file")
        return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C")


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis varies fastest, and type. Raises ValueError for a header that is none."""
    match npy.read_magic(file):
        case (1, 0):
            return npy.read_array_header_1_0(file)
        case (2, 0):
            return npy.read_array_header_2_0(file)
        case version:
            raise ValueError(f"version {version[0]} of the npy format is for tables alone")


def _of_parquet(content: bytes) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    table = ParquetRows(content)
    check(table.names, FIELDS)
    _check_types({field: table.schema.field(field).type for field in FIELDS}, len(table))
    if not len(table):
        yield "row 0", Unreadable("empty", 0, "episode")
    for number, row in table.rows(FIELDS):
        label = f"row {number}"
        if isinstance(row, Unreadable):
            yield label, Unreadable(str(row), row.lost, "episode")
        elif missing := [field for field, values in row.items() if values is None]:
            yield label, Unreadable(f"its {missing[0]} are missing", unit="episode")
        else:
            yield label, row


def _check_types(types: dict[str, pa.DataType], rows: int) -> None:
    """Raises Unreadable unless each field is lists of numbers, or of lists of them."""
    if flat := [field for field, kind in types.items() if not _is_list(kind)]:
        reason = f"its {flat[0]} are {types[flat[0]]}, and not lists"
        if "rewards" in flat:
            reason = f"a row holds one step, and is to hold an episode: lists of {', '.join(FIELDS)}"
        raise Unreadable(reason, max(1, rows), "row")
    for field, kind in types.items():
        leaf = kind
        while _is_list(leaf):
            leaf = leaf.value_type
        if not any(test(leaf) for test in NUMBER_TYPES):
            raise Unreadable(f"its {field} are {kind}, and not lists of numbers", max(1, rows), "episode")


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
