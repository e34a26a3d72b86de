"""A cluster of several nodes for the tests of a module, and the run that schedules of faults disturb."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import hooked
from tests.chaos.disk import Disk
from tests.chaos.faults import leftovers, shared_memory
from tests.chaos.journey import Undisturbed
from tests.chaos.run import CHECKPOINT_EVERY, EVALUATE_EVERY, KEEP_EVERY, SLOW, STEPS
from tests.chaos.site import head_of
from tests.command import foundray

from foundray.cluster.local.cluster import LocalCluster
from foundray.runs.checkpoints import completed, step_of
from foundray.storage import Store
from foundray.testing.specs import small_spec, write_spec
from foundray.training.checkpoints.checkpoint import read_state, state_sha256


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
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The hooked objectives are installed, for commands and for the clusters' nodes."""
    path = os.environ.get("PYTHONPATH")
    site = str(hooked.install(tmp_path_factory.mktemp("hooked")))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, path]))
    yield
    os.environ["PYTHONPATH"] = path or ""


@pytest.fixture(scope="session")
def chaos_spec(prose: Path, disk: Disk | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of runs that schedules disturb."""
    folder = disk.folder if disk else tmp_path_factory.mktemp("schedules")
    changes = {
        "objective": {"kind": "hooked_teacher"},  # its teacher is part of the state and must not be lost
        "train": {
            "steps": STEPS, "micro_batches": 12, "micro_batch_size": 2, "evaluate_every": EVALUATE_EVERY,
            "checkpoint_every": CHECKPOINT_EVERY, "keep_every": KEEP_EVERY,
        },
        "evaluate": {"sets": {"validation": {"samples": 64}}},
        "scale": {"workers": [1, 4], "resources": {"CPU": 1}},
        "fault": {"mirror_every": 5, "silence_s": 5},
    }  # fmt: skip
    return write_spec(folder, {**small_spec(prose, folder / "runs", model__width=64), **changes})


@pytest.fixture(scope="session")
def calm(chaos_spec: Path, plugin: None) -> Undisturbed:
    """What the run makes without faults."""
    facts = foundray("train", chaos_spec, "--set", "name=undisturbed", "--set", "scale.workers=1", "--json").facts
    run = chaos_spec.parent / "runs" / "undisturbed"
    states = {step_of(one): state_sha256(read_state(one)[1]) for one in completed(Store.at(str(run / "checkpoints")))}
    shutil.rmtree(run)  # the disk is small
    return Undisturbed(facts["weights_sha256"], states)


@pytest.fixture(scope="session")
def chaos_pace(tmp_path_factory: pytest.TempPathFactory) -> hooked.Pace:
    return hooked.Pace(tmp_path_factory.mktemp("pace") / "seconds", SLOW)


@pytest.fixture(scope="module")
def cluster(plugin: None) -> Iterator[LocalCluster]:
    """A head to which tests add nodes, with the hooked objectives installed; it leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="fr-"))  # short: Ray's sockets lie in it, and their paths are limited
    before = shared_memory()
    made = head_of(folder)
    yield made
    made.down()
    assert not leftovers(folder)
    assert not shared_memory() - before
