"""A cluster of several nodes for the tests of a module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import hooked
from tests.chaos.disk import Disk
from tests.chaos.faults import EVALUATE_EVERY, RESOURCES, STEPS, leftovers, shared_memory

import foundray as api
from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk | None]:
    """Storage of the schedules' runs; None if no disk can be mounted, so that storage can only fail."""
    try:
        made = Disk(tmp_path_factory.mktemp("disk") / "mounted")
    except (PermissionError, FileNotFoundError):
        yield None
        return
    yield made
    made.close()


@pytest.fixture(scope="session")
def spec(prose: Path, disk: Disk | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = disk.folder if disk else tmp_path_factory.mktemp("schedules")
    changes = {
        "objective": {"kind": "joint_embedding"},  # its teacher is part of the state and must not be lost
        "train": {
            "steps": STEPS, "micro_batches": 12, "micro_batch_size": 4,
            "evaluate_every": EVALUATE_EVERY, "checkpoint_every": 20,
        },
        "scale": {"workers": [1, 4], "resources": {"CPU": 1}},
        "fault": {"mirror_every": 5, "silence_s": 5},
    }  # fmt: skip
    return write_spec(folder, {**small_spec(prose, folder / "runs", model__width=64), **changes})


@pytest.fixture(scope="session")
def undisturbed(spec: Path) -> str:
    return str(api.train(spec, {"name": "undisturbed", "scale.workers": 1}).weights_sha256)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head to which tests add nodes, with the hooked objective installed; it leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="fr-"))  # short: Ray's sockets lie in it, and their paths are limited
    before = shared_memory()
    path = os.environ.get("PYTHONPATH")
    site = str(hooked.install(tmp_path_factory.mktemp("hooked")))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, path]))
    made = LocalCluster.up(0, RESOURCES, folder, dashboard=False)
    yield made
    made.down()
    os.environ["PYTHONPATH"] = path or ""
    assert not leftovers(folder)
    assert not shared_memory() - before
