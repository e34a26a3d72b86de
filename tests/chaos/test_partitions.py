"""Schedules of faults on nodes with a network stack each, between which packets are lost; `make chaos` runs odd seeds here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.disk import Disk
from tests.chaos.faults import head_of
from tests.chaos.lan import Lan
from tests.chaos.schedules import disturb, seeds

from foundray.cluster.local.cluster import LocalCluster


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    try:
        made = Lan()
    except PermissionError as error:
        pytest.skip(f"no networks can be made here: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def separate_cluster(lan: Lan) -> Iterator[LocalCluster]:
    made = head_of(Path(tempfile.mkdtemp(prefix="fr-")), lan)
    yield made
    made.down()


@pytest.mark.thorough
@pytest.mark.parametrize("seed", seeds((), odd=True))
def test_a_disturbed_run_on_a_network_ends_with_the_same_weights(
    seed: int, spec: Path, undisturbed: str, separate_cluster: LocalCluster, lan: Lan, disk: Disk | None
) -> None:
    disturb(seed, separate_cluster, spec, undisturbed, disk, lan)
