"""Parcels: made without pandas, which the feeder would import for them alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.repository import REPOSITORY

from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.plan import _numbers, open_parcel, parcel, plan_for, read_micro_batches
from foundray.spec import Spec

MAKE = """
import pickle, sys
from foundray.data.stream.plan import parcel
with open(sys.argv[1], "rb") as file:
    parcel(pickle.load(file), 0, 2)
assert "pandas" not in sys.modules
"""


def test_a_parcel_holds_the_micro_batches(prepared: tuple[Spec, Prepared]) -> None:
    spec, data = prepared
    plan = plan_for(data, spec)
    made = parcel(plan, 1, 2)
    made.validate(full=True)
    assert made.schema == pa.schema({"first": pa.int64(), "payloads": pa.list_(pa.large_binary())})
    assert open_parcel(made) == (1, list(read_micro_batches(plan, 1, 2)))


def test_a_parcel_is_made_without_pandas(prepared: tuple[Spec, Prepared], tmp_path: Path) -> None:
    spec, data = prepared
    (kept := tmp_path / "plan").write_bytes(pickle.dumps(plan_for(data, spec)))
    done = subprocess.run([sys.executable, "-c", MAKE, kept], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 3], pa.uint16()), pa.array([0.5, 1.5], pa.float32()), pa.array([0.5], pa.float16()),
        pa.array([], pa.int64()),
        pa.array([1, 2, 3, 4], pa.int8()).slice(1, 2), pa.array([1.0, None, 3.0]), pa.array([True, False, True]).slice(1),
        pa.array(["a", "b"]),
    ],
)  # fmt: skip
def test_numbers_are_as_arrow_converts_them(values: pa.Array) -> None:
    ours, theirs = _numbers(values), values.to_numpy(zero_copy_only=False)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
