"""A cluster of several nodes for the tests of a module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import hooked
from tests.chaos.faults import NODES, RESOURCES, leftovers

from foundray.local_cluster import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Four nodes, on which the hooked objective is installed; nothing of them is left behind afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fr-"))  # short: Ray's sockets lie in it, and their paths are limited
    before = set(Path("/dev/shm").iterdir())
    path = os.environ.get("PYTHONPATH")
    site = str(hooked.install(tmp_path_factory.mktemp("hooked")))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, path]))
    made = LocalCluster.up(NODES, RESOURCES, folder)
    yield made
    made.down()
    os.environ["PYTHONPATH"] = path or ""
    assert not leftovers(folder)
    assert set(Path("/dev/shm").iterdir()) <= before
