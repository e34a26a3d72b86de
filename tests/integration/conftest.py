"""The command line on real local Ray, as a user runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from foundray.cluster.connect import connected
from foundray.testing.specs import small_spec, write_spec


@pytest.fixture
def spec(prose: Path, tmp_path: Path) -> Path:
    """A small spec over real text, with its storage in the test's folder."""
    return write_spec(tmp_path, small_spec(prose, tmp_path / "runs"))


@pytest.fixture(scope="module")
def shared_spec(prose: Path, storage: Path) -> Path:
    return write_spec(storage, small_spec(prose, storage / "runs"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[ModuleType]:
    """One Ray for the module's own process, whose connection the Python API uses; commands have Rays of their own."""
    import ray

    ray.init(address="local", num_cpus=2, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A Ray as a command starts it for itself, for the module's own process; commands have Rays of their own."""
    with connected():
        yield
