"""Reads agents' episodes from a file: an npz with the steps of all, one after another, or Parquet with one row per episode.

An npz has `states` [N, S], `actions` [N] or [N, A], `rewards` [N], and `lengths` [episodes] that add up to N, optionally with
a prefix such as `Pendulum-v1/`. A Parquet file has the first three as columns of lists.
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
"""NumPy's kinds of numeric types and booleans."""
NUMBER_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
"""The Arrow types that are accepted."""
UNPACKED = 2**30
"""Bytes that the arrays of any npz may unpack to (judgement)."""
RATIO = 8
"""Times the size of the file that they may unpack to, if that is more (judgement: numbers do not compress better)."""


def episodes(name: str, content: bytes, prefix: str) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    """Yield (`episode N` or `row N`, its fields or why it is lost). Raises Unreadable for a file without usable episodes."""
    if not content:
        raise Unreadable("empty", 0, "file")
    if content.startswith(b"PAR1") or ".parquet" in name.lower():
        yield from _read_parquet(content)
    else:
        yield from _read_npz(content, prefix)


def _read_npz(content: bytes, prefix: str) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    """Yield the episodes of an npz. Arrays of pickled objects are never loaded."""
    arrays = _Arrays(content, [prefix + field for field in (*FIELDS, "lengths")])
    lengths = _lengths(arrays.read(prefix + "lengths"))
    try:
        steps = {field: arrays.read(prefix + field) for field in FIELDS}
        _check_lengths(steps, sum(lengths))
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
        raise Unreadable(f"its lengths are {found}; they must be whole numbers, one per episode", unit="file")
    lengths: list[int] = np.atleast_1d(values).tolist()
    if bad := [number for number, length in enumerate(lengths) if length < 0]:
        reason = f"its lengths are wrong: that of episode {bad[0]} is {lengths[bad[0]]}"
        raise Unreadable(reason, len(lengths), "episode")
    return lengths


def _check_lengths(steps: dict[str, np.ndarray], count: int) -> None:
    """Raises Unreadable unless each field has one entry per step, and rewards one number."""
    for field, values in steps.items():
        if not values.ndim:
            raise Unreadable(f"its {field} are a single number; they must have one entry per step")
    if steps["rewards"].size != len(steps["rewards"]):
        raise Unreadable(f"its rewards have the shape {steps['rewards'].shape}; they must be one number per step")
    counts = {field: len(values) for field, values in steps.items()}
    if set(counts.values()) != {count}:
        same = len(set(counts.values())) == 1
        actual = str(counts["rewards"]) if same else ", ".join(f"{number} {field}" for field, number in counts.items())
        raise Unreadable(f"its lengths add up to {count} steps, and it has {actual}")


class _Arrays:
    """Arrays of an npz, read lazily and checked against their headers."""

    def __init__(self, content: bytes, needed: list[str]):
        """Raises Unreadable unless all needed arrays are there."""
        if content.startswith(npy.MAGIC_PREFIX):
            raise Unreadable(f"a single array (npy), not an npz file; it needs {', '.join(needed)}", unit="file")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:
            raise Unreadable(f"not an npz file of plain arrays: {error}", unit="file") from None
        self._found = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        if missing := [name for name in needed if name not in self._found]:
            names = listed(list(self._found))
            raise Unreadable(f"no array {missing[0]!r}; there are: {names}; it needs {', '.join(needed)}", unit="file")
        if (size := sum(self._found[name].file_size for name in needed)) > max(UNPACKED, RATIO * len(content)):
            limit = f"at most 1 GiB, or {RATIO} times the file, is read"
            raise Unreadable(f"its arrays would unpack to {size:,} bytes; {limit}", unit="file")

    def read(self, name: str) -> np.ndarray:
        """Read one array. Raises Unreadable if it is damaged or not numeric."""
        try:
            content = self._zip.read(self._found[name])
            shape, fortran, dtype = _header(file := io.BytesIO(content))
        except Exception as error:
            raise Unreadable(f"its array {name!r} is damaged: {str(error) or type(error).__name__}", unit="file") from None
        if dtype.hasobject:
            raise Unreadable(f"its array {name!r} is pickled: object arrays are not loaded", unit="file")
        if dtype.kind not in NUMBERS:
            raise Unreadable(f"its array {name!r} has the type {dtype}, not numbers", unit="file")
        promised, held = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
        if promised != held or min(shape, default=0) < 0:
            raise Unreadable(f"its array {name!r} should have {promised} bytes, by its shape, and has {held}", unit="file")
        return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C")


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether the first axis varies fastest, type) of an array. Raises ValueError for an invalid header."""
    match npy.read_magic(file):
        case (1, 0):
            return npy.read_array_header_1_0(file)
        case (2, 0):
            return npy.read_array_header_2_0(file)
        case version:
            raise ValueError(f"version {version[0]} of the npy format is only for tables")


def _read_parquet(content: bytes) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
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
